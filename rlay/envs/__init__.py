"""Faces for Gymnasium: the agent's envs, the environment's backends, and launching."""
