/* replay.c - a main() for a fuzz target without libFuzzer. SPDX-License-Identifier: MIT
 *
 *   TARGET GOLDEN [ROUNDS [SEED]]     every golden file, and ROUNDS mutations of what is made of them
 *   TARGET GOLDEN --corpus FOLDER     write what is made of the golden files, as a corpus for libFuzzer
 *   TARGET --input FILE...            single inputs
 *
 * GOLDEN is spec/golden. The last line says how many runs there were; a finding ends the process.
 */
#define _GNU_SOURCE 1
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "hex.h"

#define INPUT_MAX (1 << 19)
#define INPUTS_MAX 4096

void fuzz_one(const uint8_t *data, size_t size);
size_t fuzz_seed(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size, int n, uint8_t *out, size_t capacity);

static struct { uint8_t *bytes; size_t size; } inputs[INPUTS_MAX];
static size_t input_count;
static uint8_t scratch[INPUT_MAX];
static uint64_t chance_state;

static uint64_t chance(uint64_t below) {
    chance_state ^= chance_state << 13, chance_state ^= chance_state >> 7, chance_state ^= chance_state << 17;
    return chance_state % below;
}

static void inputs_add(const uint8_t *control, const uint8_t *snapshot, size_t snapshot_size) {
    for (int n = 0; n < 64 && input_count < INPUTS_MAX; n++) {
        size_t size = fuzz_seed(control, snapshot, snapshot_size, n, scratch, sizeof scratch);
        if (size == 0) continue;
        inputs[input_count].bytes = malloc(size);
        inputs[input_count].size = size;
        memcpy(inputs[input_count++].bytes, scratch, size);
    }
}

/* One case: its JSON names a control file and data files, in quotes. */
static void case_read(const char *folder, const char *json) {
    static char text[1 << 16];
    char path[4096];
    uint8_t *control = NULL;
    snprintf(path, sizeof path, "%s/%s", folder, json);
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    text[size] = 0;
    if (file) fclose(file);
    for (char *end = text; (end = strstr(end, ".hex\"")) != NULL; end++) {
        char *begin = end;
        while (begin > text && begin[-1] != '"') begin--;
        snprintf(path, sizeof path, "%s/%.*s.hex", folder, (int)(end - begin), begin);
        uint8_t *bytes = hex_read(path, &size);
        if (control) inputs_add(control, bytes, size), free(bytes);
        else inputs_add(control = bytes, NULL, 0);
    }
    free(control);
}

static void golden_read(const char *golden, const char *part) {
    char folder[2048];
    struct dirent **names;
    snprintf(folder, sizeof folder, "%s/%s", golden, part);
    int count = scandir(folder, &names, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        size_t size = strlen(names[i]->d_name);
        if (size > 5 && strcmp(names[i]->d_name + size - 5, ".json") == 0) case_read(folder, names[i]->d_name);
        free(names[i]);
    }
    if (count < 0) fprintf(stderr, "%s is not a folder of golden files\n", folder), exit(2);
    free(names);
}

static const uint32_t odd[] = {0, 1, 2, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xffffffff, 257, 192513};

/* A few changes of an input: bits, bytes, odd numbers, pieces copied, cut or left out. */
static size_t mutate(uint8_t *data, size_t size) {
    for (uint64_t changes = 1 + chance(4); changes-- > 0 && size > 1;) {
        size_t at = (size_t)chance(size), other = (size_t)chance(size), span = (size_t)(1 + chance(16));
        uint32_t number = odd[chance(sizeof odd / sizeof *odd)];
        size_t width = 1u << chance(3), space = size - (at > other ? at : other);
        switch (chance(7)) {
        case 0: data[at] ^= (uint8_t)(1 << chance(8)); break;
        case 1: data[at] = (uint8_t)chance(256); break;
        case 2: memcpy(data + at, &number, width < size - at ? width : size - at); break;
        case 3: memmove(data + at, data + other, span < space ? span : space); break;
        case 4: if (chance(4) == 0) size = at + 1; break;
        case 5: if (size + span <= INPUT_MAX) memmove(data + at + span, data + at, size - at), size += span; break;
        default: if (at + span < size) memmove(data + at, data + at + span, size - at - span), size -= span; break;
        }
    }
    return size;
}

static int corpus_write(const char *folder) {
    char path[4096];
    for (size_t i = 0; i < input_count; i++) {
        snprintf(path, sizeof path, "%s/golden-%04zu", folder, i);
        FILE *file = fopen(path, "w");
        if (!file || fwrite(inputs[i].bytes, 1, inputs[i].size, file) != inputs[i].size || fclose(file) != 0) return perror(path), 2;
    }
    printf("%zu inputs\n", input_count);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: TARGET GOLDEN [ROUNDS [SEED] | --corpus FOLDER] | --input FILE...\n"), 2;
    if (strcmp(argv[1], "--input") == 0) {
        for (int i = 2; i < argc; i++) {
            FILE *file = fopen(argv[i], "r");
            if (!file) return perror(argv[i]), 2;
            fuzz_one(scratch, fread(scratch, 1, sizeof scratch, file));
            fclose(file);
        }
        return printf("%d runs\n", argc - 2), 0;
    }
    golden_read(argv[1], "valid");
    golden_read(argv[1], "invalid");
    if (argc > 3 && strcmp(argv[2], "--corpus") == 0) return corpus_write(argv[3]);
    uint64_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    chance_state = argc > 3 ? strtoull(argv[3], NULL, 10) | 1 : 0x9e3779b97f4a7c15u;
    for (size_t i = 0; i < input_count; i++) fuzz_one(inputs[i].bytes, inputs[i].size);
    for (uint64_t i = 0; i < rounds; i++) {
        size_t which = (size_t)chance(input_count), size = inputs[which].size;
        memcpy(scratch, inputs[which].bytes, size);
        size = mutate(scratch, size);
        fuzz_one(scratch, size);
    }
    printf("%zu inputs, %llu runs\n", input_count, (unsigned long long)(input_count + rounds));
    return 0;
}
