/* What the modules in front of a real one share: the function list, and how a control file is known to have changed.
 * Who includes this defines PROGRAM first, the name that its messages begin with. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* The order of CK_FUNCTION_LIST, PKCS#11 v2.40. faulty_module.py reads the names from here. */
#define FUNCTIONS(X) \
    X(C_Initialize) X(C_Finalize) X(C_GetInfo) X(C_GetFunctionList) X(C_GetSlotList) X(C_GetSlotInfo) \
    X(C_GetTokenInfo) X(C_GetMechanismList) X(C_GetMechanismInfo) X(C_InitToken) X(C_InitPIN) X(C_SetPIN) \
    X(C_OpenSession) X(C_CloseSession) X(C_CloseAllSessions) X(C_GetSessionInfo) X(C_GetOperationState) \
    X(C_SetOperationState) X(C_Login) X(C_Logout) X(C_CreateObject) X(C_CopyObject) X(C_DestroyObject) \
    X(C_GetObjectSize) X(C_GetAttributeValue) X(C_SetAttributeValue) X(C_FindObjectsInit) X(C_FindObjects) \
    X(C_FindObjectsFinal) X(C_EncryptInit) X(C_Encrypt) X(C_EncryptUpdate) X(C_EncryptFinal) X(C_DecryptInit) \
    X(C_Decrypt) X(C_DecryptUpdate) X(C_DecryptFinal) X(C_DigestInit) X(C_Digest) X(C_DigestUpdate) X(C_DigestKey) \
    X(C_DigestFinal) X(C_SignInit) X(C_Sign) X(C_SignUpdate) X(C_SignFinal) X(C_SignRecoverInit) X(C_SignRecover) \
    X(C_VerifyInit) X(C_Verify) X(C_VerifyUpdate) X(C_VerifyFinal) X(C_VerifyRecoverInit) X(C_VerifyRecover) \
    X(C_DigestEncryptUpdate) X(C_DecryptDigestUpdate) X(C_SignEncryptUpdate) X(C_DecryptVerifyUpdate) \
    X(C_GenerateKey) X(C_GenerateKeyPair) X(C_WrapKey) X(C_UnwrapKey) X(C_DeriveKey) X(C_SeedRandom) \
    X(C_GenerateRandom) X(C_GetFunctionStatus) X(C_CancelFunction) X(C_WaitForSlotEvent)

#define POSITION(name) at_##name,
enum { FUNCTIONS(POSITION) FUNCTION_COUNT, ANY = -1 };
#define NAME(name) #name,
static const char *const NAMES[] = {FUNCTIONS(NAME)};

enum { CKR_OK = 0, CKA_CLASS = 0, CKA_KEY_TYPE = 0x100, TOKEN_INFO_FLAGS = 32 + 32 + 16 + 16 };

/* Every argument of every function is an integer or a pointer and there are at most eight, so one type forwards them
 * all: on x86-64 and aarch64 each has a register or a stack slot of its own, whatever its width, and the words beyond
 * a function's own arguments are read and handed on without harm. */
typedef unsigned long word;
typedef word (*any_function)(word, word, word, word, word, word, word, word);
struct function_list { unsigned char version[2]; any_function at[FUNCTION_COUNT]; };
struct attribute { word type; void *value; word length; };

#define DIE(...) (fprintf(stderr, PROGRAM ": " __VA_ARGS__), fputc('\n', stderr), abort())

static struct function_list *real, ours;

static inline word call_real(int function, const word *a) {
    return real->at[function](a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]);
}

/* --- the control file -------------------------------------------------------------------------------------------- */

struct version { uint64_t inode, size, mtime_ns; };

static inline struct version version_of(const struct stat *file) {
    uint64_t ns = (uint64_t)file->st_mtim.tv_sec * 1000000000 + (uint64_t)file->st_mtim.tv_nsec;
    return (struct version){file->st_ino, (uint64_t)file->st_size, ns};
}

static inline bool same(const struct version *one, const struct version *other) {
    return !memcmp(one, other, sizeof *one);
}

static inline int function_named(const char *name, const char *line) {
    if (!strcmp(name, "*")) return ANY;
    for (int i = 0; i < FUNCTION_COUNT; i++)
        if (i != at_C_GetFunctionList && !strcmp(name, NAMES[i])) return i;
    DIE("no such function: %s", line);
}

static inline double number(const char *text, const char *line) {
    char *end = NULL;
    double value = text ? strtod(text, &end) : NAN; /* reads 0x30, too */
    if (!(value >= 0) || end == text || *end) DIE("a number is missing or wrong: %s", line);
    return value;
}

static inline void sleep_ms(double ms) {
    time_t seconds = (time_t)(ms / 1000);
    struct timespec left = {seconds, (long)((ms - 1e3 * (double)seconds) * 1e6)};
    while (nanosleep(&left, &left)) continue;
}

/* --- the start --------------------------------------------------------------------------------------------------- */

static inline const char *environment(const char *name) {
    const char *value = getenv(name);
    if (!value) DIE("%s is not set", name);
    return value;
}

/* The stats page of `size` bytes in the file that an environment variable names; its descriptor goes to *file. */
static inline void *map_stats(const char *name, size_t size, int *file) {
    struct stat status;
    *file = open(environment(name), O_RDWR | O_CLOEXEC);
    if (*file < 0 || fstat(*file, &status) || status.st_size != (off_t)size) DIE("%s is no stats page", name);
    void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    if (page == MAP_FAILED) DIE("cannot map the stats page");
    return page;
}

static inline void load_real(const char *name) {
    void *library = dlopen(environment(name), RTLD_NOW | RTLD_LOCAL);
    if (!library) DIE("%s", dlerror());
    word (*list)(struct function_list **) = dlsym(library, "C_GetFunctionList");
    if (!list || list(&real)) DIE("%s is no PKCS#11 module", environment(name));
}

word C_GetFunctionList(struct function_list **list);

#define WRAPPER(name) \
    static word our_##name(word a, word b, word c, word d, word e, word f, word g, word h) { \
        return call(at_##name, (word[8]){a, b, c, d, e, f, g, h}); \
    }
#define ENTRY(name) our_##name,
/* After `static word call(int function, word *a)`. */
#define MODULE_OF_WRAPPERS \
    FUNCTIONS(WRAPPER) \
    static void fill_ours(void) { \
        ours = (struct function_list){{2, 40}, {FUNCTIONS(ENTRY)}}; \
        ours.at[at_C_GetFunctionList] = (any_function)(void (*)(void))C_GetFunctionList; \
    }
