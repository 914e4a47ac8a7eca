"""Command-line tools; the library never imports them."""
