// What nobody can do without: the plainest loops, one thread, nothing else done.
//
//   floor walk DIR                walks a tree: getdents, fstatat of every entry
//   floor create LIST DIR         creates, writes and closes every file of a list (size, tab, path; -1 for a folder);
//                                 bytes come from memory
//   floor write FILE BYTES        writes one file in blocks of 1 MiB
//   floor copy BYTES              memcpy of a block that fits no cache
//
// All print: seconds, CPU seconds, entries or bytes. `create` and `write` end with fsync or syncfs; their first figure
// is with it, the fourth without.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 1 << 20, POOL = 16 << 20, PATH = 4096 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double begun, before;

// Both clocks start here: what is prepared costs nothing.
static void start(void) {
    begun = now();
    before = cpu();
}

// Bytes that differ; what they are does not matter.
static unsigned char *pool(size_t bytes) {
    unsigned char *block = malloc(bytes);
    if (!block) fail("memory");
    uint64_t state = 88172645463325252u;
    for (size_t at = 0; at + 8 <= bytes; at += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(block + at, &state, 8);
    }
    return block;
}

static void write_all(int file, const unsigned char *from, size_t bytes) {
    while (bytes) {
        ssize_t done = write(file, from, bytes);
        if (done < 0) fail("write");
        from += done;
        bytes -= (size_t)done;
    }
}

static uint64_t walk(int folder) {
    DIR *entries = fdopendir(folder);
    if (!entries) fail("folder");
    uint64_t count = 0;
    struct dirent *entry;
    while ((entry = readdir(entries))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        struct stat stat;
        if (fstatat(dirfd(entries), entry->d_name, &stat, AT_SYMLINK_NOFOLLOW)) fail(entry->d_name);
        count++;
        if (!S_ISDIR(stat.st_mode)) continue;
        int below = openat(dirfd(entries), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (below < 0) fail(entry->d_name);
        count += walk(below);
    }
    closedir(entries);
    return count;
}

static uint64_t create(const char *list, const char *target, double *unsynced) {
    unsigned char *bytes = pool(POOL);
    FILE *lines = fopen(list, "r");
    int root = open(target, O_RDONLY | O_DIRECTORY);
    if (!lines || root < 0) fail("list or target");
    start();
    uint64_t count = 0, at = 0;
    char line[PATH];
    while (fgets(line, sizeof line, lines)) {
        char *path = strchr(line, '\t');
        line[strcspn(line, "\n")] = 0;
        long long size = atoll(line);
        path++;
        if (size < 0) {
            if (mkdirat(root, path, 0755) && errno != EEXIST) fail(path);
            continue;
        }
        int file = openat(root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (file < 0) fail(path);
        if (at + (uint64_t)size > POOL) at = 0;
        write_all(file, bytes + at, (size_t)size);
        at += (uint64_t)size;
        close(file);
        count++;
    }
    *unsynced = now() - begun;
    if (syncfs(root)) fail("syncfs");
    return count;
}

static uint64_t write_one(const char *path, uint64_t bytes, double *unsynced) {
    unsigned char *block = pool(BLOCK);
    start();
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (file < 0) fail(path);
    for (uint64_t left = bytes; left;) {
        size_t now_written = left < BLOCK ? (size_t)left : BLOCK;
        write_all(file, block, now_written);
        left -= now_written;
    }
    *unsynced = now() - begun;
    if (fsync(file)) fail("fsync");
    close(file);
    return bytes;
}

static uint64_t copy(uint64_t bytes) {
    enum { HUGE_BLOCK = 256 << 20 };
    unsigned char *from = pool(HUGE_BLOCK), *to = malloc(HUGE_BLOCK);
    if (!to) fail("memory");
    memset(to, 1, HUGE_BLOCK);
    uint64_t done = 0;
    start();
    for (; done < bytes; done += HUGE_BLOCK) {
        memcpy(to, from, HUGE_BLOCK);
        __asm__ volatile("" ::"r"(to) : "memory");
    }
    return done;
}

int main(int count, char **words) {
    if (count < 3) return 2;
    double unsynced = 0;
    uint64_t done;
    if (!strcmp(words[1], "walk")) {
        int root = open(words[2], O_RDONLY | O_DIRECTORY);
        if (root < 0) fail(words[2]);
        start();
        done = walk(root);
    } else if (!strcmp(words[1], "create") && count > 3) {
        done = create(words[2], words[3], &unsynced);
    } else if (!strcmp(words[1], "write") && count > 3) {
        done = write_one(words[2], strtoull(words[3], 0, 10), &unsynced);
    } else if (!strcmp(words[1], "copy")) {
        done = copy(strtoull(words[2], 0, 10));
    } else {
        return 2;
    }
    printf("%.6f %.6f %llu %.6f\n", now() - begun, cpu() - before, (unsigned long long)done, unsynced);
    return 0;
}
