/* A PKCS#11 module in front of a real one, which is otherwise than it in the ways that a quirks file says: as other
 * vendors' modules are. quirks_module.py builds and steers it. It may stand before a faulty module, too.
 *
 * QUIRKS_MODULE   path of the real module
 * QUIRKS_FILE     path of the quirks file; a change of its inode, size or mtime (ns) holds from the next call on
 * QUIRKS_STATS    path of the stats page: counts that all processes of one "HSM" share
 *
 * A line of the file is a quirk, [what is in brackets] may be left out. MECH and ATTR are names (CKM_RSA_PKCS, CKA_ID)
 * or 0x numbers, and * for any; CODE is 0x...; LABEL reaches to the end of its line.
 *
 * Mechanisms
 *   missing MECH                       not listed, 0x70 where it is used
 *   nosign MECH                        its CKF_SIGN is off in C_GetMechanismInfo; it works
 *   maps MECH OTHER                    C_GenerateKeyPair with MECH, which is listed, does what OTHER does
 *   forbid FUNCTION MECH CODE [label=LABEL]   C_SignInit, C_Sign, C_DecryptInit or C_Decrypt answers CODE, for keys
 *                                      with this label; or C_GenerateKeyPair; !MECH is any but MECH
 *   ecdsa_der                          C_Sign gives ECDSA signatures as a DER SEQUENCE instead of r||s
 * Making keys; SIDE is public, private (C_GenerateKeyPair), object (C_CreateObject), unwrapped (C_UnwrapKey) or *
 *   template SIDE ATTR CODE [length=N] [false]   a template with ATTR (of N bytes, of one byte that is CK_FALSE) is
 *                                      refused
 *   generates                          a public template without size or curve means RSA-2048 or P-256
 *   least_random N CODE                C_GenerateRandom of fewer than N bytes is refused
 * Slots
 *   extra_slot CODE [first] [hangs] [only=FUNCTION]   one slot more, whose calls but C_GetSlotInfo (or FUNCTION alone)
 *                                      answer CODE, or never
 *   slot_hidden [label=LABEL]          slots with this token (all slots) are not listed
 *   slot_fails CODE [only=FUNCTION] [label=LABEL]   calls on the slot of this token (of all) answer CODE
 *   late N                             no slot is listed until C_Initialize was called more than N times
 * Login
 *   wrong_pin CODE [flags=HEX]         a wrong PIN is answered so; the token has these flags until a right one
 *   login CODE [flags=HEX]             every C_Login is answered so, whatever the PIN, as is the token
 *   token_flags [set=HEX] [clear=HEX]  in C_GetTokenInfo
 *   no_login PIN CODE                  CKF_LOGIN_REQUIRED is off, everything is there without a login, C_Login: CODE
 *   empty_pin PIN                      the empty PIN is right, and no other; PIN is the real one
 *   pin_pad PIN                        the token has a PIN pad (CKF_PROTECTED_AUTHENTICATION_PATH): C_Login without
 *                                      a PIN is somebody's typing PIN there
 *   user_type HEX                      the user's login is this CK_USER_TYPE; CKU_USER is answered 0x103
 *   sessions N                         the limit in C_GetTokenInfo
 *   read_write CODE                    read-only sessions are refused
 * Objects; WHOSE is public, private, object (others) or *
 *   attribute WHOSE ATTR unreadable|sensitive|empty|flip|hexid [label=LABEL]   flip: one bit; hexid: CKA_ID as hex
 *   attribute WHOSE ATTR is VALUE [label=LABEL]   text, or 0x and pairs of hex digits
 *   hide WHOSE [label=LABEL]           is not found. LABEL is always the real module's
 * Calls
 *   serial                             one call at a time, over all threads and processes
 *   slow MS [only=FUNCTION]            each C_Sign (or FUNCTION) takes so much longer
 *   unlocked CODE                      once C_Initialize came without locking, calls at the same time answer CODE
 *   initialize CODE N                  the first N C_Initialize answer CODE
 *   answer FUNCTION CODE               call nothing, return CODE
 *   another_list                       each C_GetFunctionList gives another pointer, as p11-kit's client does
 *
 * A C_Sign without a buffer only asks how long the signature will be; it is not counted, and not slow. What is not
 * understood ends the process with a message: a rig must not fail to fail. */
#define PROGRAM "quirks_module"
#include "cryptoki.h"
#include "quirks_file.h"

enum { CKR_ATTRIBUTE_SENSITIVE = 0x11, CKR_ATTRIBUTE_TYPE_INVALID = 0x12, CKR_MECHANISM_INVALID = 0x70,
       CKR_PIN_INCORRECT = 0xA0, CKR_USER_TYPE_INVALID = 0x103, CKR_BUFFER_TOO_SMALL = 0x150 };
enum { CKA_LABEL = 3, CKA_ID = 0x102, CKA_MODULUS_BITS = 0x121, CKA_PUBLIC_EXPONENT = 0x122, CKA_EC_PARAMS = 0x180,
       CKM_EC_KEY_PAIR_GEN = 0x1040, CKM_ECDSA = 0x1041, CKM_ECDSA_SHA512 = 0x1046, CKF_SIGN = 0x800,
       CKF_LOGIN_REQUIRED = 4, CKF_PROTECTED_AUTHENTICATION_PATH = 0x100, CKF_RW_SESSION = 2, CKF_OS_LOCKING_OK = 2,
       CKU_USER = 1, EXTRA = 0xBAD0051 };
enum { LIMITS = TOKEN_INFO_FLAGS + 8, MAX_SEEN = 0x1100, MAX_LIST = 512, MAX_OPERATIONS = 1024, MAX_ATTRIBUTE = 4096 };

/* The stats page, as quirks_module.py reads it: sign_inits by mechanism. */
struct page {
    _Atomic uint64_t calls[FUNCTION_COUNT], wrong_pins, without_locking, refused_initializations, most_at_once;
    _Atomic uint64_t sign_inits[MAX_SEEN];
};
struct operation { word session, mechanism, key; word *found, size, next; };

static struct page *page;
static int stats;
static _Atomic bool without_locking;
static _Atomic word in_progress;
static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct operation operations[MAX_OPERATIONS];

static struct operation *operation_of(word session) {
    struct operation *free_one = NULL, *at = operations;
    pthread_mutex_lock(&table_lock);
    for (; at < operations + MAX_OPERATIONS && at->session != session; at++)
        if (!at->session && !free_one) free_one = at;
    if (at == operations + MAX_OPERATIONS) at = free_one;
    if (!at) DIE("more than %d sessions", MAX_OPERATIONS);
    at->session = session;
    pthread_mutex_unlock(&table_lock);
    return at;
}

static void forget(word session) { /* 0: every one */
    pthread_mutex_lock(&table_lock);
    for (struct operation *at = operations; at < operations + MAX_OPERATIONS; at++) {
        if (session && at->session != session) continue;
        free(at->found);
        *at = (struct operation){0};
    }
    pthread_mutex_unlock(&table_lock);
}

#include "quirks_slots.h"
#include "quirks_objects.h"
#include "quirks_sessions.h"

/* --- every call -------------------------------------------------------------------------------------------------- */

static word random_bytes(const word *a) {
    for (EACH(quirk, LEAST_RANDOM))
        if (a[2] < quirk->number) return quirk->code;
    return call_real(at_C_GenerateRandom, a);
}

static bool takes_slot(int function) {
    return (function >= at_C_GetSlotInfo && function <= at_C_InitToken) || function == at_C_OpenSession ||
           function == at_C_CloseAllSessions;
}

static word refused(int function, word *a) {
    word rv = CKR_OK;
    for (EACH(quirk, ANSWER))
        if (quirk->function == ANY || quirk->function == function) return quirk->code;
    if (takes_slot(function)) rv = slot_answer(function, a);
    if (takes_mechanism(function) && missing(*(word *)a[1])) rv = CKR_MECHANISM_INVALID;
    if (function == at_C_CreateObject) rv = refused_template(OBJECT, (const struct attribute *)a[1], a[2]);
    if (function == at_C_UnwrapKey && rv == CKR_OK)
        rv = refused_template(UNWRAPPED, (const struct attribute *)a[5], a[6]);
    return rv;
}

static word dispatch(int function, word *a) {
    word rv = refused(function, a);
    if (rv != CKR_OK) return rv;
    switch (function) {
    case at_C_Initialize: return initialize(a);
    case at_C_GetSlotList: return slot_list(a);
    case at_C_GetTokenInfo: return token_info(a);
    case at_C_GetMechanismList: return mechanism_list(a);
    case at_C_GetMechanismInfo: return mechanism_info(a);
    case at_C_OpenSession: return open_session(a);
    case at_C_CloseSession: forget(a[0]); return call_real(function, a);
    case at_C_Finalize: forget(0); return call_real(function, a);
    case at_C_Login: return login(a);
    case at_C_GetAttributeValue: return attribute_values(a);
    case at_C_FindObjectsInit: return find_init(a);
    case at_C_FindObjects: return find(a);
    case at_C_FindObjectsFinal: return find_final(a);
    case at_C_SignInit: case at_C_DecryptInit: return begin(function, a);
    case at_C_Sign: case at_C_Decrypt: return finish(function, a);
    case at_C_GenerateKeyPair: return generate_pair(a);
    case at_C_GenerateRandom: return random_bytes(a);
    default: return call_real(function, a);
    }
}

static word take_time(int function, word *a) {
    bool asks_length = function == at_C_Sign && !a[3];
    for (EACH(quirk, SLOW))
        if (!asks_length && function == (quirk->only == ANY ? at_C_Sign : quirk->only)) sleep_ms((double)quirk->number);
    return dispatch(function, a);
}

/* flock() knows processes (open descriptions), not threads: the mutex goes before it. A killed process lets go of both. */
static word one_by_one(int function, word *a) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    flock(stats, LOCK_EX);
    word rv = take_time(function, a);
    flock(stats, LOCK_UN);
    pthread_mutex_unlock(&lock);
    return rv;
}

static word call(int function, word *a) {
    all = quirks_now();
    if (function != at_C_Sign || a[3]) page->calls[function]++;
    const struct quirk *unlocked = next_of(UNLOCKED, NULL);
    word others = in_progress++, rv;
    if (others + 1 > page->most_at_once) page->most_at_once = others + 1;
    if (unlocked && without_locking && others && function != at_C_Initialize && function != at_C_Finalize)
        rv = unlocked->code;
    else
        rv = next_of(SERIAL, NULL) ? one_by_one(function, a) : take_time(function, a);
    in_progress--;
    return rv;
}

MODULE_OF_WRAPPERS

static void start(void) {
    quirks_path = environment("QUIRKS_FILE");
    page = map_stats("QUIRKS_STATS", sizeof *page, &stats);
    load_real("QUIRKS_MODULE");
    fill_ours();
}

word C_GetFunctionList(struct function_list **list) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    page->calls[at_C_GetFunctionList]++;
    all = quirks_now();
    *list = &ours;
    if (next_of(ANOTHER_LIST, NULL)) {
        *list = malloc(sizeof ours);
        memcpy(*list, &ours, sizeof ours);
    }
    return CKR_OK;
}
