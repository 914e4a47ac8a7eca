/* opener.c - opens NAME.rlay again and again while somebody else puts other things there.
 *
 *   opener ROUNDS INODE    prints how often it was opened, how often refused, and how often INODE was opened
 */
#define RLAY_IMPLEMENTATION
#include "rlay.h"

int main(int argc, char **argv) {
    static rlay_channel ch;
    long opened = 0, refused = 0, followed = 0, rounds = argc == 3 ? atol(argv[1]) : 0;
    uint64_t forbidden = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    memset(&ch, 0, sizeof ch);
    if (rlay__root_open(&ch) < 0) return fprintf(stderr, "%s\n", rlay_error_text(&ch)), 1;
    for (long i = 0; i < rounds; i++) {
        struct stat info;
        int fd = rlay__file_open(&ch, "c.rlay", 0, &info);
        if (fd < 0) {
            refused++;
            continue;
        }
        opened++;
        followed += (uint64_t)info.st_ino == forbidden;
        close(fd);
    }
    printf("{\"opened\": %ld, \"refused\": %ld, \"followed\": %ld}\n", opened, refused, followed);
    return 0;
}
