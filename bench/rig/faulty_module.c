/* A PKCS#11 module in front of a real one, which fails as a control file says. faulty_module.py builds and steers it.
 *
 * FAULTY_MODULE   path of the real module
 * FAULTY_CONTROL  path of the control file; a change of its inode, size or mtime (ns) holds from the next call on
 * FAULTY_STATS    path of the stats page: counts that all processes of one "HSM" share
 * FAULTY_SEED     optional: a number, for the same throws of p= in each life of a process
 *
 * A line of the control file is a rule:  FUNCTION ACTION [ARGUMENT] [n=COUNT] [p=PROBABILITY] [after=SKIP]
 * FUNCTION is a C_ name, or * for every function; C_GetFunctionList never fails. The first rule that matches a call is
 * applied; `delay` and `serial` are applied, and the rules after them are looked at too. A rule matches with
 * PROBABILITY, not the first SKIP times, and then COUNT times: over all processes, until the control file changes.
 *
 *   delay MS      sleep (fractions allowed)           rv CODE       call nothing, return this CKR_ code (0x...)
 *   serial MS     sleep, one call at a time over all processes of this "HSM", as a card or a small device works
 *   hang          never return                        rvafter CODE  call, then return this code: a lost reply
 *   stall         wait until this line is gone from   corrupt       C_Sign: flip a bit of the signature
 *                 the control file, then call         otherkey      C_SignInit: with another private key of the type,
 *   crash         SIGSEGV                                           of those that C_FindObjects gave: a stale handle
 *   abort         SIGABRT                             logout        C_Logout on the call's session, then call
 *   exit STATUS   end the process                     closeall      C_CloseAllSessions on the slot in use, then call
 *   flags HEX     C_GetTokenInfo: set these (0x...)   finalize      C_Finalize, then call
 *   implicit      C_Decrypt: what fails gives bytes made of the ciphertext, and no error ("implicit rejection")
 *
 * Two lines say what the HSM is like, whatever rules apply; they fire when they refuse:
 *   maxsess K     C_OpenSession gives CKR_SESSION_COUNT while K sessions of this process are open
 *   pinlock K     C_Login gives CKR_PIN_LOCKED after K wrong PINs in a row, over all processes and control files
 *
 * A C_Sign without a buffer only asks how long the signature will be. It is not counted and no rule matches it, so that
 * one signature is one C_Sign. What is not understood ends the process with a message: a rig must not fail to fail. */
#define PROGRAM "faulty_module"
#include "cryptoki.h"
#include <errno.h>
#include <signal.h>

enum { CKR_PIN_INCORRECT = 0xA0, CKR_PIN_LOCKED = 0xA4, CKR_SESSION_COUNT = 0xB1 };

enum action { DELAY, SERIAL, RV, RVAFTER, HANG, STALL, CRASH, ABORT, EXIT, CORRUPT, OTHERKEY, LOGOUT, CLOSEALL, FINALIZE,
              FLAGS, IMPLICIT, MAXSESS, PINLOCK, ACTION_COUNT };
static const struct { const char *name, *argument; int only; } ACTIONS[] = {
    [DELAY] = {"delay", "decimal", ANY}, [SERIAL] = {"serial", "decimal", ANY},
    [RV] = {"rv", "hex", ANY}, [RVAFTER] = {"rvafter", "hex", ANY},
    [HANG] = {"hang", NULL, ANY}, [STALL] = {"stall", NULL, ANY}, [CRASH] = {"crash", NULL, ANY},
    [ABORT] = {"abort", NULL, ANY}, [EXIT] = {"exit", "decimal", ANY}, [CORRUPT] = {"corrupt", NULL, at_C_Sign},
    [OTHERKEY] = {"otherkey", NULL, at_C_SignInit}, [LOGOUT] = {"logout", NULL, ANY},
    [CLOSEALL] = {"closeall", NULL, ANY}, [FINALIZE] = {"finalize", NULL, ANY},
    [IMPLICIT] = {"implicit", NULL, at_C_Decrypt},
    [FLAGS] = {"flags", "hex", at_C_GetTokenInfo}, [MAXSESS] = {"maxsess", "decimal", at_C_OpenSession},
    [PINLOCK] = {"pinlock", "decimal", at_C_Login},
};

enum { MAX_LINE = 200, MAX_RULES = 32, MAX_VERSIONS = 64, MAX_FOUND = 256 };
struct rule { char line[MAX_LINE]; int function; enum action action; double argument, n, p, after; };

/* The stats page, as faulty_module.py reads it. Each version of the control file has counts of its own: a process still
 * in a call under one version must not spoil those of the next. The oldest version gives way to the newest. */
struct counts { struct version version; _Atomic uint64_t matched[MAX_RULES], fired[MAX_RULES]; };
struct page {
    _Atomic uint64_t calls[FUNCTION_COUNT], wrong_pins;
    uint64_t versions;
    struct counts counts[MAX_VERSIONS];
};
struct table { struct version version; struct counts *counts; size_t size; struct rule rules[MAX_RULES]; };

static const char *control;
static int stats;
static struct page *page;
static const struct table *_Atomic current;
static _Atomic word sessions, slot, found[MAX_FOUND], found_size;

/* --- the control file -------------------------------------------------------------------------------------------- */

static bool takes_session(int function) {
    return function == ANY || function == at_C_InitPIN || function == at_C_SetPIN || function == at_C_CloseSession ||
           (function > at_C_CloseAllSessions && function < at_C_WaitForSlotEvent);
}

static enum action action_named(const char *name) {
    enum action action = 0;
    while (action < ACTION_COUNT && (!name || strcmp(name, ACTIONS[action].name))) action++;
    return action;
}

static void parse(struct rule *rule, const char *line) {
    char copy[MAX_LINE], *rest = NULL;
    *rule = (struct rule){.n = INFINITY, .p = 1};
    strcpy(rule->line, line);
    const char *next = strtok_r(strcpy(copy, line), " ", &rest);
    if (!next) DIE("an empty line");
    rule->action = action_named(next);
    if (rule->action != MAXSESS && rule->action != PINLOCK) {
        rule->function = function_named(next, line);
        rule->action = action_named(strtok_r(NULL, " ", &rest));
        if (rule->action >= MAXSESS) DIE("no such action: %s", line);
        int only = ACTIONS[rule->action].only;
        if ((only != ANY && rule->function != only) || (rule->action == LOGOUT && !takes_session(rule->function)))
            DIE("this action is not for this function: %s", line);
    }
    const char *argument = ACTIONS[rule->action].argument;
    if (argument) {
        rule->argument = number(next = strtok_r(NULL, " ", &rest), line);
        if (!strcmp(argument, "hex") != !strncmp(next, "0x", 2)) DIE("a %s number belongs here: %s", argument, line);
    }
    while ((next = strtok_r(NULL, " ", &rest))) {
        const char *equals = strchr(next, '=');
        double value = number(equals ? equals + 1 : NULL, line);
        if (!strncmp(next, "n=", 2)) rule->n = value;
        else if (!strncmp(next, "p=", 2) && value <= 1) rule->p = value;
        else if (!strncmp(next, "after=", 6)) rule->after = value;
        else DIE("'%s' is not understood: %s", next, line);
    }
}

static struct counts *counts_for(const struct version *version) {
    struct counts *counts = NULL;
    flock(stats, LOCK_EX);
    for (int i = 0; i < MAX_VERSIONS && !counts; i++)
        if (same(&page->counts[i].version, version)) counts = &page->counts[i];
    if (!counts) {
        counts = &page->counts[page->versions++ % MAX_VERSIONS];
        memset(counts, 0, sizeof *counts);
        counts->version = *version;
    }
    flock(stats, LOCK_UN);
    return counts;
}

/* Tables are never freed: another thread may be reading the last one. */
static const struct table *read_rules(FILE *file, const struct version *version) {
    struct table *table = calloc(1, sizeof *table);
    if (!table) DIE("no memory");
    char line[MAX_LINE];
    while (fgets(line, sizeof line, file)) {
        char *end = strchr(line, '\n');
        if (!end) DIE("a line that does not end, or of more than %d characters: %s", MAX_LINE - 2, line);
        *end = 0;
        if (table->size == MAX_RULES) DIE("more than %d rules", MAX_RULES);
        parse(&table->rules[table->size++], line);
    }
    table->version = *version;
    if (table->size) table->counts = counts_for(version);
    return table;
}

static const struct table *load(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    FILE *file = fopen(control, "re");
    struct stat status;
    if (!file || fstat(fileno(file), &status)) DIE("cannot read %s", control);
    const struct version version = version_of(&status);
    const struct table *table = current;
    if (!table || !same(&table->version, &version)) current = table = read_rules(file, &version);
    fclose(file);
    pthread_mutex_unlock(&lock);
    return table;
}

static const struct table *rules(void) {
    struct stat status;
    if (stat(control, &status)) DIE("no control file %s", control);
    const struct version version = version_of(&status);
    const struct table *table = current;
    return table && same(&table->version, &version) ? table : load();
}

static bool stands(const char *line) {
    const struct table *table = rules();
    for (size_t i = 0; i < table->size; i++)
        if (!strcmp(table->rules[i].line, line)) return true;
    return false;
}

/* --- which rule -------------------------------------------------------------------------------------------------- */

static double throw(void) {
    static _Atomic unsigned threads;
    static _Thread_local bool seeded;
    static _Thread_local unsigned short state[3];
    if (!seeded) {
        const char *seed = getenv("FAULTY_SEED");
        state[0] = (unsigned short)(seed ? (unsigned)number(seed, "FAULTY_SEED") : (unsigned)(getpid() ^ time(NULL)));
        state[1] = (unsigned short)threads++;
        /* Seeds of neighbours (process ids, threads) give neighbouring first throws: two HSMs would fail together. */
        for (int i = 0; i < 8; i++) erand48(state);
        seeded = true;
    }
    return erand48(state);
}

static bool fires(const struct table *table, const struct rule *rule) {
    size_t i = (size_t)(rule - table->rules);
    if (rule->p < 1 && throw() >= rule->p) return false;
    double before = (double)table->counts->matched[i]++ - rule->after;
    if (before < 0 || before >= rule->n) return false;
    table->counts->fired[i]++;
    return true;
}

static bool matches(const struct rule *rule, int function) {
    if (rule->action >= MAXSESS || (rule->function != ANY && rule->function != function)) return false;
    return rule->action == LOGOUT ? takes_session(function) : rule->action != CLOSEALL || sessions > 0;
}

static bool refused(enum action action, uint64_t so_many) {
    const struct table *table = rules();
    for (const struct rule *rule = table->rules; rule < table->rules + table->size; rule++)
        if (rule->action == action && (double)so_many >= rule->argument && fires(table, rule)) return true;
    return false;
}

/* --- the real module --------------------------------------------------------------------------------------------- */

static word open_session(const word *a) {
    static pthread_mutex_t one_by_one = PTHREAD_MUTEX_INITIALIZER; /* two at once cannot both be the last */
    pthread_mutex_lock(&one_by_one);
    word rv = refused(MAXSESS, sessions) ? CKR_SESSION_COUNT : call_real(at_C_OpenSession, a);
    if (rv == CKR_OK) {
        sessions++;
        slot = a[0];
    }
    pthread_mutex_unlock(&one_by_one);
    return rv;
}

static word login(const word *a) {
    if (refused(PINLOCK, page->wrong_pins)) return CKR_PIN_LOCKED;
    word rv = call_real(at_C_Login, a);
    if (rv == CKR_PIN_INCORRECT) page->wrong_pins++;
    if (rv == CKR_OK) page->wrong_pins = 0;
    return rv;
}

static void remember(word handle) { /* at worst twice, when two threads find it at once */
    for (word i = 0; i < found_size && i < MAX_FOUND; i++)
        if (found[i] == handle) return;
    found[found_size++ % MAX_FOUND] = handle;
}

static word forward(int function, const word *a) {
    if (function == at_C_OpenSession) return open_session(a);
    if (function == at_C_Login) return login(a);
    word rv = call_real(function, a);
    if (rv != CKR_OK) return rv;
    if (function == at_C_FindObjects)
        for (word i = 0; i < *(word *)a[3]; i++) remember(((word *)a[1])[i]);
    if (function == at_C_CloseSession) sessions--;
    if (function == at_C_CloseAllSessions || function == at_C_Finalize) sessions = 0;
    return rv;
}

static bool describe(word session, word object, word *kind) {
    struct attribute wanted[] = {{CKA_CLASS, &kind[0], sizeof *kind}, {CKA_KEY_TYPE, &kind[1], sizeof *kind}};
    return call_real(at_C_GetAttributeValue, (word[8]){session, object, (word)wanted, 2}) == CKR_OK;
}

static word other_key(word session, word key) {
    word wanted[2], kind[2];
    if (describe(session, key, wanted))
        for (word i = 0; i < found_size && i < MAX_FOUND; i++)
            if (found[i] != key && describe(session, found[i], kind) && !memcmp(kind, wanted, sizeof kind))
                return found[i];
    DIE("otherkey: this process has found no other private key of the type");
}

/* --- the actions ------------------------------------------------------------------------------------------------- */

/* The lock is of an open file, of which each thread has its own, and goes with a process that is killed. It is no
 * flock(2), which is for the counts. */
static void sleep_alone(double ms) {
    static _Thread_local int turn = -1;
    if (turn < 0 && (turn = open(environment("FAULTY_STATS"), O_RDWR | O_CLOEXEC)) < 0) DIE("no stats page");
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
    while (fcntl(turn, F_OFD_SETLKW, &lock))
        if (errno != EINTR) DIE("cannot lock the stats page");
    sleep_ms(ms);
    lock.l_type = F_UNLCK;
    fcntl(turn, F_OFD_SETLK, &lock);
}

/* The same bytes for the same ciphertext, of a length that it decides, as OpenSSL does from 3.2 on. */
static word decrypt_implicitly(const word *a) {
    word room = *(word *)a[4], rv = forward(at_C_Decrypt, a);
    if (rv == CKR_OK || !a[3]) return rv;
    uint64_t seed = 14695981039346656037u;
    for (word i = 0; i < a[2]; i++) seed = (seed ^ ((const unsigned char *)a[1])[i]) * 1099511628211u;
    word length = *(word *)a[4] = (seed >> 32) % (room - 11);
    for (word i = 0; i < length; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ((unsigned char *)a[3])[i] = (unsigned char)(seed >> 56);
    }
    return CKR_OK;
}

static word apply(const struct rule *rule, int function, word *a) {
    word rv;
    switch (rule->action) {
    case RV: return (word)rule->argument;
    case RVAFTER: forward(function, a); return (word)rule->argument;
    case HANG: for (;;) pause();
    case STALL: while (stands(rule->line)) sleep_ms(10); break;
    case CRASH: raise(SIGSEGV); abort();
    case ABORT: abort();
    case EXIT: _exit((int)rule->argument);
    case CORRUPT:
        rv = forward(function, a);
        if (rv == CKR_OK) ((unsigned char *)a[3])[*(word *)a[4] / 2] ^= 1;
        return rv;
    case IMPLICIT: return decrypt_implicitly(a);
    case FLAGS:
        rv = forward(function, a);
        if (rv == CKR_OK) *(word *)(a[1] + TOKEN_INFO_FLAGS) |= (word)rule->argument;
        return rv;
    case OTHERKEY: a[2] = other_key(a[0], a[2]); break;
    case LOGOUT: forward(at_C_Logout, (word[8]){a[0]}); break;
    case CLOSEALL: forward(at_C_CloseAllSessions, (word[8]){slot}); break;
    case FINALIZE: forward(at_C_Finalize, (word[8]){0}); break;
    default: abort();
    }
    return forward(function, a);
}

static word call(int function, word *a) {
    if (function == at_C_Sign && !a[3]) return call_real(function, a);
    page->calls[function]++;
    const struct table *table = rules();
    for (const struct rule *rule = table->rules; rule < table->rules + table->size; rule++) {
        if (!matches(rule, function) || !fires(table, rule)) continue;
        if (rule->action == DELAY) sleep_ms(rule->argument);
        else if (rule->action == SERIAL) sleep_alone(rule->argument);
        else return apply(rule, function, a);
    }
    return forward(function, a);
}

/* --- the module -------------------------------------------------------------------------------------------------- */

MODULE_OF_WRAPPERS

static void start(void) {
    control = environment("FAULTY_CONTROL");
    page = map_stats("FAULTY_STATS", sizeof *page, &stats);
    load_real("FAULTY_MODULE");
    fill_ours();
}

word C_GetFunctionList(struct function_list **list) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    page->calls[at_C_GetFunctionList]++;
    *list = &ours;
    return CKR_OK;
}
