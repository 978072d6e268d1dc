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

/* --- lists that a caller asks for twice: for the length, and for what is in it ------------------------------------ */

static word give_list(word *list, word *size, const word *from, word count) {
    word room = *size;
    *size = count;
    if (!list) return CKR_OK;
    if (room < count) return CKR_BUFFER_TOO_SMALL;
    memcpy(list, from, count * sizeof *from);
    return CKR_OK;
}

static word give(struct attribute *wanted, const void *from, word length) {
    word room = wanted->length;
    wanted->length = length;
    if (!wanted->value) return CKR_OK;
    if (room < length) {
        wanted->length = WILD;
        return CKR_BUFFER_TOO_SMALL;
    }
    memcpy(wanted->value, from, length);
    return CKR_OK;
}

/* --- slots ------------------------------------------------------------------------------------------------------- */

static bool token_labelled(word slot, const struct quirk *quirk) {
    unsigned char info[512];
    if (!quirk->has_label) return true;
    if (call_real(at_C_GetTokenInfo, (word[8]){slot, (word)info}) != CKR_OK) return false;
    size_t length = strlen(quirk->label);
    return !memcmp(info, quirk->label, length) && (length == 32 || info[length] == ' ');
}

static bool applies_to(const struct quirk *quirk, int function) {
    return quirk->only == ANY || quirk->only == function;
}

static word slot_list(const word *a) {
    word slots[MAX_LIST], kept[MAX_LIST + 1], size = MAX_LIST, count = 0;
    word rv = call_real(at_C_GetSlotList, (word[8]){a[0], (word)slots, (word)&size});
    if (rv != CKR_OK) return rv;
    const struct quirk *extra = next_of(EXTRA_SLOT, NULL), *late = next_of(LATE, NULL);
    if (late && page->calls[at_C_Initialize] <= late->number) size = 0;
    if (extra && extra->first) kept[count++] = EXTRA;
    for (word i = 0; i < size; i++) {
        bool hidden = false;
        for (EACH(quirk, SLOT_HIDDEN)) hidden |= token_labelled(slots[i], quirk);
        if (!hidden) kept[count++] = slots[i];
    }
    if (extra && !extra->first) kept[count++] = EXTRA;
    return give_list((word *)a[1], (word *)a[2], kept, count);
}

static word first_slot(void) {
    word slots[MAX_LIST], size = MAX_LIST;
    call_real(at_C_GetSlotList, (word[8]){1, (word)slots, (word)&size});
    return slots[0];
}

/* What a quirk answers to a call on the slot a[0]; CKR_OK where none does, and a[0] is then one of the real slots. */
static word slot_answer(int function, word *a) {
    if (a[0] == EXTRA) {
        const struct quirk *quirk = next_of(EXTRA_SLOT, NULL);
        if (!quirk) return 3;
        bool fails = quirk->only == ANY ? function != at_C_GetSlotInfo : quirk->only == function;
        while (fails && quirk->hangs) pause();
        if (fails) return quirk->code;
        a[0] = first_slot();
    } else {
        for (EACH(quirk, SLOT_FAILS))
            if (applies_to(quirk, function) && token_labelled(a[0], quirk)) return quirk->code;
    }
    return CKR_OK;
}

static word token_info(const word *a) {
    word rv = call_real(at_C_GetTokenInfo, a), *flags = (word *)(a[1] + TOKEN_INFO_FLAGS);
    if (rv != CKR_OK) return rv;
    for (EACH(quirk, TOKEN_FLAGS)) *flags = (*flags | quirk->set) & ~quirk->clear;
    for (EACH(quirk, WRONG_PIN)) *flags |= page->wrong_pins ? quirk->set : 0;
    for (EACH(quirk, LOGIN)) *flags |= quirk->set;
    if (next_of(NO_LOGIN, NULL)) *flags &= ~(word)CKF_LOGIN_REQUIRED;
    if (next_of(PIN_PAD, NULL)) *flags |= CKF_PROTECTED_AUTHENTICATION_PATH;
    for (EACH(quirk, SESSIONS)) {
        memcpy((char *)a[1] + LIMITS, &quirk->number, sizeof(word));
        memcpy((char *)a[1] + LIMITS + 2 * sizeof(word), &quirk->number, sizeof(word));
    }
    return CKR_OK;
}

/* --- mechanisms -------------------------------------------------------------------------------------------------- */

static bool meant(const struct quirk *quirk, word mechanism) {
    return quirk->mechanism == WILD || (quirk->mechanism == mechanism) != quirk->other;
}

static bool missing(word mechanism) {
    for (EACH(quirk, MISSING))
        if (meant(quirk, mechanism)) return true;
    return false;
}

static word mapped(word mechanism) {
    for (EACH(quirk, MAPS))
        if (quirk->mechanism == mechanism) return quirk->asked;
    return mechanism;
}

static word mechanism_list(const word *a) {
    word real_ones[MAX_LIST], kept[MAX_LIST + MAX_QUIRKS], size = MAX_LIST, count = 0;
    word rv = call_real(at_C_GetMechanismList, (word[8]){a[0], (word)real_ones, (word)&size});
    if (rv != CKR_OK) return rv;
    for (word i = 0; i < size; i++)
        if (!missing(real_ones[i])) kept[count++] = real_ones[i];
    for (EACH(quirk, MAPS)) kept[count++] = quirk->mechanism;
    return give_list((word *)a[1], (word *)a[2], kept, count);
}

static word mechanism_info(const word *a) {
    if (missing(a[1])) return CKR_MECHANISM_INVALID;
    word rv = call_real(at_C_GetMechanismInfo, (word[8]){a[0], mapped(a[1]), a[2]});
    for (EACH(quirk, NOSIGN))
        if (rv == CKR_OK && meant(quirk, a[1])) ((word *)a[2])[2] &= ~(word)CKF_SIGN;
    return rv;
}

static bool takes_mechanism(int function) {
    switch (function) {
    case at_C_SignInit: case at_C_VerifyInit: case at_C_EncryptInit: case at_C_DecryptInit: case at_C_DigestInit:
    case at_C_GenerateKey: case at_C_GenerateKeyPair: case at_C_WrapKey: case at_C_UnwrapKey: case at_C_DeriveKey:
        return true;
    default: return false;
    }
}

/* --- objects ----------------------------------------------------------------------------------------------------- */

static word real_bytes(word session, word object, word type, struct bytes *value) {
    struct attribute wanted = {type, value->at, sizeof value->at};
    word rv = call_real(at_C_GetAttributeValue, (word[8]){session, object, (word)&wanted, 1});
    value->length = rv == CKR_OK ? wanted.length : 0;
    return rv;
}

static bool labelled(word session, word object, const struct quirk *quirk) {
    struct bytes label;
    if (!quirk->has_label) return true;
    return real_bytes(session, object, CKA_LABEL, &label) == CKR_OK && label.length == strlen(quirk->label) &&
           !memcmp(label.at, quirk->label, label.length);
}

static bool concerns(const struct quirk *quirk, word session, word object) {
    word class = WILD;
    struct attribute wanted = {CKA_CLASS, &class, sizeof class};
    if (!labelled(session, object, quirk)) return false;
    if (quirk->side == EVERY) return true;
    call_real(at_C_GetAttributeValue, (word[8]){session, object, (word)&wanted, 1});
    return quirk->side == (word)(class == 2 ? PUBLIC : class == 3 ? PRIVATE : OBJECT);
}

static word no_value(struct attribute *wanted, word rv) {
    wanted->length = WILD;
    return rv;
}

static word otherwise(const struct quirk *quirk, word session, word object, struct attribute *wanted) {
    struct bytes real_id;
    char hex[2 * MAX_VALUE + 1];
    switch (quirk->become) {
    case UNREADABLE: return no_value(wanted, CKR_ATTRIBUTE_TYPE_INVALID);
    case SENSITIVE: return no_value(wanted, CKR_ATTRIBUTE_SENSITIVE);
    case EMPTY: return give(wanted, "", 0);
    case IS: return give(wanted, quirk->value.at, quirk->value.length);
    case HEXID:
        real_bytes(session, object, CKA_ID, &real_id);
        for (word i = 0; i < real_id.length; i++) sprintf(hex + 2 * i, "%02x", real_id.at[i]);
        return give(wanted, hex, 2 * real_id.length);
    case FLIP: {
        word rv = call_real(at_C_GetAttributeValue, (word[8]){session, object, (word)wanted, 1});
        if (rv == CKR_OK && wanted->value && wanted->length) ((unsigned char *)wanted->value)[wanted->length - 1] ^= 1;
        return rv;
    }
    default: abort();
    }
}

static word one_attribute(word session, word object, struct attribute *wanted) {
    for (EACH(quirk, ATTRIBUTE))
        if ((quirk->attribute == WILD || quirk->attribute == wanted->type) && concerns(quirk, session, object))
            return otherwise(quirk, session, object, wanted);
    return call_real(at_C_GetAttributeValue, (word[8]){session, object, (word)wanted, 1});
}

static word attribute_values(const word *a) {
    if (!next_of(ATTRIBUTE, NULL)) return call_real(at_C_GetAttributeValue, a);
    word answer = CKR_OK;
    for (word i = 0; i < a[3]; i++) {
        word rv = one_attribute(a[0], a[1], &((struct attribute *)a[2])[i]);
        if (answer == CKR_OK) answer = rv;
    }
    return answer;
}

static bool hidden(word session, word object) {
    for (EACH(quirk, HIDE))
        if (concerns(quirk, session, object)) return true;
    return false;
}

static bool fits(word session, word object, const struct attribute *template, word size) {
    unsigned char value[MAX_ATTRIBUTE];
    for (word i = 0; i < size; i++) {
        struct attribute wanted = {template[i].type, value, sizeof value};
        if (one_attribute(session, object, &wanted) != CKR_OK || wanted.length != template[i].length ||
            memcmp(value, template[i].value, wanted.length))
            return false;
    }
    return true;
}

/* Objects are looked for by what the quirks make of them: all are taken, and those that fit are kept. */
static word find_init(const word *a) {
    struct operation *operation = operation_of(a[0]);
    free(operation->found);
    operation->found = NULL;
    if (!next_of(ATTRIBUTE, NULL) && !next_of(HIDE, NULL)) return call_real(at_C_FindObjectsInit, a);
    word rv = call_real(at_C_FindObjectsInit, (word[8]){a[0], 0, 0});
    if (rv != CKR_OK) return rv;
    word *found = malloc(MAX_LIST * sizeof *found), count = 0, kept = 0;
    rv = call_real(at_C_FindObjects, (word[8]){a[0], (word)found, MAX_LIST, (word)&count});
    call_real(at_C_FindObjectsFinal, (word[8]){a[0]});
    for (word i = 0; rv == CKR_OK && i < count; i++)
        if (!hidden(a[0], found[i]) && fits(a[0], found[i], (const struct attribute *)a[1], a[2]))
            found[kept++] = found[i];
    operation->found = found;
    operation->size = kept;
    operation->next = 0;
    return rv;
}

static word find(const word *a) {
    struct operation *operation = operation_of(a[0]);
    if (!operation->found) return call_real(at_C_FindObjects, a);
    word left = operation->size - operation->next, count = left < a[2] ? left : a[2];
    memcpy((void *)a[1], operation->found + operation->next, count * sizeof(word));
    operation->next += count;
    *(word *)a[3] = count;
    return CKR_OK;
}

static word find_final(const word *a) {
    struct operation *operation = operation_of(a[0]);
    if (!operation->found) return call_real(at_C_FindObjectsFinal, a);
    free(operation->found);
    operation->found = NULL;
    return CKR_OK;
}

/* --- making keys ------------------------------------------------------------------------------------------------- */

static word refused_template(word side, const struct attribute *template, word size) {
    for (EACH(quirk, TEMPLATE))
        for (word i = 0; (quirk->side & side) && i < size; i++) {
            const struct attribute *one = &template[i];
            if (quirk->attribute != WILD && quirk->attribute != one->type) continue;
            if (quirk->size != WILD && quirk->size != one->length) continue;
            if (quirk->when_false && (one->length != 1 || *(unsigned char *)one->value)) continue;
            return quirk->code;
        }
    return CKR_OK;
}

static bool has(const struct attribute *template, word size, word type) {
    for (word i = 0; i < size; i++)
        if (template[i].type == type) return true;
    return false;
}

static word generate_pair(const word *a) {
    static word bits = 2048;
    static unsigned char p256[] = {6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7}, exponent[] = {1, 0, 1};
    word refused = refused_template(PUBLIC, (const struct attribute *)a[2], a[3]);
    if (refused == CKR_OK) refused = refused_template(PRIVATE, (const struct attribute *)a[4], a[5]);
    if (refused != CKR_OK) return refused;
    word size = a[3], mechanism[3];
    memcpy(mechanism, (void *)a[1], sizeof mechanism);
    for (EACH(quirk, FORBID))
        if (quirk->function == at_C_GenerateKeyPair && meant(quirk, mechanism[0])) return quirk->code;
    mechanism[0] = mapped(mechanism[0]);
    if (size > MAX_LIST) DIE("a template of more than %d attributes", MAX_LIST);
    struct attribute template[MAX_LIST + 2];
    if (size) memcpy(template, (void *)a[2], size * sizeof *template);
    if (next_of(GENERATES, NULL)) {
        if (mechanism[0] == CKM_EC_KEY_PAIR_GEN) {
            if (!has(template, size, CKA_EC_PARAMS)) template[size++] = (struct attribute){CKA_EC_PARAMS, p256, 10};
        } else {
            if (!has(template, size, CKA_MODULUS_BITS))
                template[size++] = (struct attribute){CKA_MODULUS_BITS, &bits, sizeof bits};
            if (!has(template, size, CKA_PUBLIC_EXPONENT))
                template[size++] = (struct attribute){CKA_PUBLIC_EXPONENT, exponent, 3};
        }
    }
    return call_real(at_C_GenerateKeyPair,
                     (word[8]){a[0], (word)mechanism, (word)template, size, a[4], a[5], a[6], a[7]});
}

/* --- login ------------------------------------------------------------------------------------------------------- */

static word initialize(const word *a) {
    const word *arguments = (const word *)a[0]; /* four mutex functions, then the flags */
    if (!arguments || (!arguments[0] && !(arguments[4] & CKF_OS_LOCKING_OK))) {
        without_locking = true; /* for the life of the process, as tpm2-pkcs11 */
        page->without_locking++;
    }
    for (EACH(quirk, INITIALIZE)) {
        if (page->refused_initializations >= quirk->number) continue;
        page->refused_initializations++;
        return quirk->code;
    }
    return call_real(at_C_Initialize, a);
}

static word login(word *a) {
    for (EACH(quirk, USER_TYPE)) {
        if (a[1] == CKU_USER) return CKR_USER_TYPE_INVALID;
        if (a[1] == quirk->number) a[1] = CKU_USER;
    }
    for (EACH(quirk, NO_LOGIN)) return quirk->code;
    for (EACH(quirk, LOGIN)) {
        page->wrong_pins++;
        return quirk->code;
    }
    word rv = CKR_PIN_INCORRECT;
    const struct quirk *empty = next_of(EMPTY_PIN, NULL), *pad = next_of(PIN_PAD, NULL);
    if (pad && !a[2]) rv = call_real(at_C_Login, (word[8]){a[0], a[1], (word)pad->text, strlen(pad->text)});
    else if (!empty || a[1] != CKU_USER) rv = call_real(at_C_Login, a);
    else if (!a[3]) rv = call_real(at_C_Login, (word[8]){a[0], a[1], (word)empty->text, strlen(empty->text)});
    if (rv == CKR_OK) page->wrong_pins = 0;
    if (rv != CKR_PIN_INCORRECT) return rv;
    page->wrong_pins++;
    for (EACH(quirk, WRONG_PIN)) return quirk->code;
    return rv;
}

static word open_session(const word *a) {
    for (EACH(quirk, READ_WRITE))
        if (!(a[1] & CKF_RW_SESSION)) return quirk->code;
    word rv = call_real(at_C_OpenSession, a);
    for (EACH(quirk, NO_LOGIN))
        if (rv == CKR_OK) /* 0x100 after the first, which is well */
            call_real(at_C_Login, (word[8]){*(word *)a[4], CKU_USER, (word)quirk->text, strlen(quirk->text)});
    return rv;
}

/* --- signing ----------------------------------------------------------------------------------------------------- */

static word forbidden(int function, word session, word mechanism, word key) {
    for (EACH(quirk, FORBID))
        if (quirk->function == function && meant(quirk, mechanism) && labelled(session, key, quirk)) return quirk->code;
    return CKR_OK;
}

static word begin(int function, const word *a) {
    word mechanism = *(word *)a[1], rv = forbidden(function, a[0], mechanism, a[2]);
    if (function == at_C_SignInit && mechanism < MAX_SEEN) page->sign_inits[mechanism]++;
    if (rv != CKR_OK) return rv;
    struct operation *operation = operation_of(a[0]);
    operation->mechanism = mechanism;
    operation->key = a[2];
    return call_real(function, a);
}

static word integer(unsigned char *to, const unsigned char *from, word length) {
    while (length > 1 && !*from) from++, length--;
    word sign = *from >> 7;
    to[0] = 2;
    to[1] = (unsigned char)(length + sign);
    to[2] = 0;
    memcpy(to + 2 + sign, from, length);
    return 2 + sign + length;
}

/* ECDSA-Sig-Value of RFC 3279 section 2.2.3. */
static word in_der(const word *a) {
    unsigned char plain[256], numbers[300], made[310];
    word length = sizeof plain, room = *(word *)a[4];
    word rv = call_real(at_C_Sign, (word[8]){a[0], a[1], a[2], a[3] ? (word)plain : 0, (word)&length});
    if (rv != CKR_OK) return rv;
    *(word *)a[4] = length + 12;
    if (!a[3]) return CKR_OK;
    word size = integer(numbers, plain, length / 2), head = 0;
    size += integer(numbers + size, plain + length / 2, length / 2);
    made[head++] = 0x30;
    if (size > 127) made[head++] = 0x81;
    made[head++] = (unsigned char)size;
    memcpy(made + head, numbers, size);
    *(word *)a[4] = head + size;
    if (room < head + size) return CKR_BUFFER_TOO_SMALL;
    memcpy((void *)a[3], made, head + size);
    return CKR_OK;
}

static word finish(int function, const word *a) {
    const struct operation *operation = operation_of(a[0]);
    word rv = forbidden(function, a[0], operation->mechanism, operation->key);
    if (rv != CKR_OK) { /* the operation ends with the error */
        unsigned char unused[2048];
        word length = sizeof unused;
        call_real(function, (word[8]){a[0], a[1], a[2], (word)unused, (word)&length});
        return rv;
    }
    bool ecdsa = operation->mechanism >= CKM_ECDSA && operation->mechanism <= CKM_ECDSA_SHA512;
    return function == at_C_Sign && ecdsa && next_of(ECDSA_DER, NULL) ? in_der(a) : call_real(function, a);
}

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
