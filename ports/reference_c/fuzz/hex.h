/* hex.h - reads golden files. SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* A golden file in its text form, see spec/golden/README.md. */
static uint8_t *hex_read(const char *path, size_t *size) {
    FILE *file = fopen(path, "r");
    char line[128], *at;
    unsigned offset, byte;
    int used;
    if (!file || !fgets(line, sizeof line, file) || sscanf(line, "size %zu", size) != 1) {
        fprintf(stderr, "%s is not a golden file\n", path);
        exit(2);
    }
    uint8_t *data = calloc(1, *size < 262144 ? 262144 : *size);
    while (data && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%x:%n", &offset, &used) != 1) continue;
        for (at = line + used; offset < *size && sscanf(at, " %2x%n", &byte, &used) == 1; at += used) data[offset++] = (uint8_t)byte;
    }
    fclose(file);
    return data;
}
