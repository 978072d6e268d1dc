/* Paths that are compiled into a program or library, below a directory of one's own: LD_PRELOAD this into it.
 *
 * PRIVATE_ROOT    the directory: /etc/x becomes PRIVATE_ROOT/etc/x
 * PRIVATE_PATHS   which paths: what they begin with, with colons in between
 *
 * PRIVATE_NUMBER  shared memory, of both kinds, has it in its name
 * PRIVATE_USER    the daemon's, if there is such a user here, else root: private sockets seem to be its, other files root's
 * PRIVATE_DAEMON  set for the daemon alone: it takes itself for this user
 *
 * No owner is changed, and who runs this is in the group that openCryptoki wants: a test needs neither root nor a group. The commands that system() is asked for are not run: openCryptoki empties a
 * directory with them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdbool.h>
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

static unsigned private_number(void) {
    const char *number = getenv("PRIVATE_NUMBER");
    return number ? (unsigned)strtoul(number, NULL, 10) : 0;
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
TAKES_PATH(int, lstat, (const char *path, struct stat *into), (MOVED(path), into))
TAKES_PATH(int, access, (const char *path, int mode), (MOVED(path), mode))
TAKES_PATH(int, mkdir, (const char *path, mode_t mode), (MOVED(path), mode))
TAKES_PATH(int, chmod, (const char *path, mode_t mode), (MOVED(path), mode))
TAKES_PATH(int, chdir, (const char *path), (MOVED(path)))
TAKES_PATH(int, unlink, (const char *path), (MOVED(path)))
TAKES_PATH(int, remove, (const char *path), (MOVED(path)))

int rename(const char *from, const char *to) {
    REAL(rename);
    return real(MOVED(from), MOVED(to));
}

int mkstemp(char *name) { /* which gets its last six characters from it */
    REAL(mkstemp);
    char own[PATH_MAX];
    snprintf(own, sizeof own, "%s", MOVED(name));
    int file = real(own);
    memcpy(name + strlen(name) - 6, own + strlen(own) - 6, 6);
    return file;
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
    return real(key == IPC_PRIVATE ? key : (key_t)((unsigned)key ^ private_number()), size, flags);
}

static const char *own_name(const char *name, char *room) {
    snprintf(room, NAME_MAX, "/%u-%s", private_number(), name + (*name == '/'));
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

static uid_t private_user(void) {
    const char *name = getenv("PRIVATE_USER");
    const struct passwd *user = name ? getpwnam(name) : NULL;
    return user ? user->pw_uid : 0;
}

static int seen(int answer, struct stat *of) {
    if (!answer && of->st_uid == getuid()) of->st_uid = S_ISSOCK(of->st_mode) ? private_user() : 0;
    return answer;
}

int stat(const char *path, struct stat *into) {
    REAL(stat);
    return seen(real(MOVED(path), into), into);
}

int fstat(int file, struct stat *into) {
    REAL(fstat);
    char link[32], path[PATH_MAX] = "";
    const char *root = getenv("PRIVATE_ROOT");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    bool is_private = root && readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, root, strlen(root));
    int answer = real(file, into);
    return is_private ? seen(answer, into) : answer;
}

uid_t geteuid(void) {
    REAL(geteuid);
    return getenv("PRIVATE_DAEMON") ? private_user() : real();
}

#define STAYS(name, more, unused) \
    int name more { \
        REAL(name); \
        return getenv("PRIVATE_DAEMON") ? 0 : real unused; \
    }
STAYS(setuid, (uid_t user), (user))
STAYS(setgid, (gid_t group), (group))
STAYS(initgroups, (const char *user, gid_t group), (user, group))

/* Of libcap, where a program is linked with it. */
int cap_set_proc(void *set) {
    int (*real)(void *) = dlsym(RTLD_NEXT, "cap_set_proc");
    return getenv("PRIVATE_DAEMON") || !real ? 0 : real(set);
}

struct group *getgrnam(const char *name) {
    static struct group own;
    static char user[NAME_MAX], *members[] = {user, NULL};
    REAL(getgrnam);
    if (strcmp(name, "pkcs11")) return real(name);
    const struct passwd *found = getpwuid(getuid());
    snprintf(user, sizeof user, "%s", found ? found->pw_name : "");
    own = (struct group){.gr_name = "pkcs11", .gr_gid = getegid(), .gr_mem = members};
    return &own;
}
