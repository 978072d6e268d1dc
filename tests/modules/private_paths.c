/* Paths that are compiled into a program or library, below a directory of one's own: LD_PRELOAD this into it.
 *
 * PRIVATE_ROOT    the directory: /etc/x becomes PRIVATE_ROOT/etc/x
 * PRIVATE_PATHS   which paths: what they begin with, with colons in between
 *
 * Shared memory, of both kinds, gets names of the root's own, and no owner is changed: who runs a test needs neither
 * root nor a group. The commands that system() is asked for are not run: openCryptoki empties a directory with them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define MOVED(path) moved(path, (char[PATH_MAX]){0})

static const char *moved(const char *path, char *room) {
    const char *root = getenv("PRIVATE_ROOT"), *one = getenv("PRIVATE_PATHS");
    while (path && root && one && *one) {
        size_t length = strcspn(one, ":");
        if (length && !strncmp(path, one, length)) {
            snprintf(room, PATH_MAX, "%s%s", root, path);
            return room;
        }
        one += length + (one[length] == ':');
    }
    return path;
}

static unsigned root_number(void) {
    unsigned number = 5381;
    for (const char *at = getenv("PRIVATE_ROOT"); at && *at; at++) number = number * 33 + (unsigned char)*at;
    return number;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        REAL(name); \
        va_list more; \
        va_start(more, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
        va_end(more); \
        return real(MOVED(path), flags, mode); \
    }
OPENS(open)
OPENS(open64)

#define TAKES_PATH(result, name, more, given) \
    result name more { \
        REAL(name); \
        return real given; \
    }
TAKES_PATH(FILE *, fopen, (const char *path, const char *mode), (MOVED(path), mode))
TAKES_PATH(FILE *, fopen64, (const char *path, const char *mode), (MOVED(path), mode))
TAKES_PATH(DIR *, opendir, (const char *path), (MOVED(path)))
TAKES_PATH(int, stat, (const char *path, struct stat *into), (MOVED(path), into))
TAKES_PATH(int, lstat, (const char *path, struct stat *into), (MOVED(path), into))
TAKES_PATH(int, access, (const char *path, int mode), (MOVED(path), mode))
TAKES_PATH(int, mkdir, (const char *path, mode_t mode), (MOVED(path), mode))
TAKES_PATH(int, chmod, (const char *path, mode_t mode), (MOVED(path), mode))
TAKES_PATH(int, unlink, (const char *path), (MOVED(path)))
TAKES_PATH(int, remove, (const char *path), (MOVED(path)))

int rename(const char *from, const char *to) {
    REAL(rename);
    return real(MOVED(from), MOVED(to));
}

#define TAKES_ADDRESS(name) \
    int name(int socket, const struct sockaddr *address, socklen_t length) { \
        REAL(name); \
        const struct sockaddr_un *given = (const struct sockaddr_un *)address; \
        if (address->sa_family != AF_UNIX || length < sizeof *given || !*given->sun_path) \
            return real(socket, address, length); \
        struct sockaddr_un own = *given; \
        snprintf(own.sun_path, sizeof own.sun_path, "%s", MOVED(given->sun_path)); \
        return real(socket, (struct sockaddr *)&own, sizeof own); \
    }
TAKES_ADDRESS(bind)
TAKES_ADDRESS(connect)

int shmget(key_t key, size_t size, int flags) {
    REAL(shmget);
    return real(key == IPC_PRIVATE ? key : (key_t)((unsigned)key ^ root_number()), size, flags);
}

static const char *own_name(const char *name, char *room) {
    snprintf(room, NAME_MAX, "/%x-%s", root_number(), name + (*name == '/'));
    return room;
}

int shm_open(const char *name, int flags, mode_t mode) {
    REAL(shm_open);
    return real(own_name(name, (char[NAME_MAX]){0}), flags, mode);
}

int shm_unlink(const char *name) {
    REAL(shm_unlink);
    return real(own_name(name, (char[NAME_MAX]){0}));
}

int chown(const char *path, uid_t user, gid_t group) {
    return (void)path, (void)user, (void)group, 0;
}

int fchown(int file, uid_t user, gid_t group) {
    return (void)file, (void)user, (void)group, 0;
}

int system(const char *command) {
    return (void)command, 0;
}

/* The group that openCryptoki asks for is this process's own, and its daemon takes itself for root. */
struct group *getgrnam(const char *name) {
    static struct group own;
    REAL(getgrnam);
    if (strcmp(name, "pkcs11")) return real(name);
    static char *members[] = {NULL};
    own = (struct group){.gr_name = "pkcs11", .gr_gid = getegid(), .gr_mem = members};
    return &own;
}
