// Makes a provider lie: loaded before libc (LD_PRELOAD), flips a bit of everything that is read from a file at a position,
// once the file named in LIAR_FLAG exists; before, the provider can hash its files undisturbed.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

enum { LEAF = 1 << 16 };

ssize_t pread64(int file, void *to, size_t bytes, off64_t at) {
    static ssize_t (*honest)(int, void *, size_t, off64_t);
    if (!honest) honest = (ssize_t(*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    ssize_t done = honest(file, to, bytes, at);
    const char *flag = getenv("LIAR_FLAG");
    if (done > 0 && flag && access(flag, F_OK) == 0)
        for (ssize_t place = 0; place < done; place += LEAF) ((unsigned char *)to)[place] ^= 1;
    return done;
}
