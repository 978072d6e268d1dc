/* The lines of a quirks file, read: quirks_module.c, whose first comment is their manual, alone includes this. */

enum kind { MISSING, NOSIGN, MAPS, FORBID, TEMPLATE, GENERATES, LEAST_RANDOM, ANSWER, EXTRA_SLOT, SLOT_HIDDEN,
            SLOT_FAILS, LATE, WRONG_PIN, LOGIN, TOKEN_FLAGS, SESSIONS, NO_LOGIN, EMPTY_PIN, PIN_PAD, USER_TYPE,
            READ_WRITE, ATTRIBUTE, HIDE, SERIAL, SLOW, UNLOCKED, INITIALIZE, ECDSA_DER, ANOTHER_LIST, KIND_COUNT };

/* What follows the word: m a mechanism, f a function, c a code, a an attribute, d a decimal number, h a hex number, w a
 * word, t whose template, o whose attribute, x what becomes of an attribute; and the options, label= beside them. */
static const struct { const char *name, *arguments, *options; bool label; } KINDS[] = {
    [MISSING] = {"missing", "m", "", false}, [NOSIGN] = {"nosign", "m", "", false},
    [MAPS] = {"maps", "mm", "", false}, [FORBID] = {"forbid", "fmc", "", true},
    [TEMPLATE] = {"template", "tac", "length= false", false}, [GENERATES] = {"generates", "", "", false},
    [LEAST_RANDOM] = {"least_random", "dc", "", false}, [ANSWER] = {"answer", "fc", "", false},
    [EXTRA_SLOT] = {"extra_slot", "c", "first hangs only=", false}, [SLOT_HIDDEN] = {"slot_hidden", "", "", true},
    [SLOT_FAILS] = {"slot_fails", "c", "only=", true}, [LATE] = {"late", "d", "", false},
    [WRONG_PIN] = {"wrong_pin", "c", "flags=", false}, [LOGIN] = {"login", "c", "flags=", false},
    [TOKEN_FLAGS] = {"token_flags", "", "set= clear=", false}, [SESSIONS] = {"sessions", "d", "", false},
    [NO_LOGIN] = {"no_login", "wc", "", false}, [EMPTY_PIN] = {"empty_pin", "w", "", false},
    [PIN_PAD] = {"pin_pad", "w", "", false},
    [USER_TYPE] = {"user_type", "h", "", false}, [READ_WRITE] = {"read_write", "c", "", false},
    [ATTRIBUTE] = {"attribute", "oax", "", true}, [HIDE] = {"hide", "o", "", true},
    [SERIAL] = {"serial", "", "", false}, [SLOW] = {"slow", "d", "only=", false},
    [UNLOCKED] = {"unlocked", "c", "", false}, [INITIALIZE] = {"initialize", "cd", "", false},
    [ECDSA_DER] = {"ecdsa_der", "", "", false}, [ANOTHER_LIST] = {"another_list", "", "", false},
};

enum side { PUBLIC = 1, PRIVATE = 2, OBJECT = 4, UNWRAPPED = 8, EVERY = 15 };
enum become { UNREADABLE, SENSITIVE, EMPTY, FLIP, HEXID, IS };
#define WILD (~0ul)

struct name { const char *name; word value; };
static const struct name MECHANISMS[] = {
    {"*", WILD}, {"CKM_RSA_PKCS_KEY_PAIR_GEN", 0x0}, {"CKM_RSA_PKCS", 0x1}, {"CKM_RSA_X_509", 0x3},
    {"CKM_SHA1_RSA_PKCS", 0x6}, {"CKM_RSA_PKCS_OAEP", 0x9}, {"CKM_RSA_X9_31_KEY_PAIR_GEN", 0xA},
    {"CKM_RSA_PKCS_PSS", 0xD}, {"CKM_SHA256_RSA_PKCS", 0x40}, {"CKM_SHA384_RSA_PKCS", 0x41},
    {"CKM_SHA512_RSA_PKCS", 0x42}, {"CKM_SHA256_RSA_PKCS_PSS", 0x43}, {"CKM_SHA384_RSA_PKCS_PSS", 0x44},
    {"CKM_SHA512_RSA_PKCS_PSS", 0x45}, {"CKM_EC_KEY_PAIR_GEN", 0x1040}, {"CKM_ECDSA", 0x1041},
    {"CKM_ECDSA_SHA256", 0x1044}, {"CKM_ECDSA_SHA384", 0x1045}, {"CKM_ECDSA_SHA512", 0x1046},
    {"CKM_AES_KEY_GEN", 0x1080}, {NULL, 0}};
static const struct name ATTRIBUTES[] = {
    {"*", WILD}, {"CKA_CLASS", 0x0}, {"CKA_TOKEN", 0x1}, {"CKA_PRIVATE", 0x2}, {"CKA_LABEL", 0x3}, {"CKA_ID", 0x102},
    {"CKA_KEY_TYPE", 0x100}, {"CKA_SENSITIVE", 0x103}, {"CKA_ENCRYPT", 0x104}, {"CKA_DECRYPT", 0x105},
    {"CKA_WRAP", 0x106}, {"CKA_UNWRAP", 0x107}, {"CKA_SIGN", 0x108}, {"CKA_SIGN_RECOVER", 0x109},
    {"CKA_VERIFY", 0x10A}, {"CKA_VERIFY_RECOVER", 0x10B}, {"CKA_DERIVE", 0x10C}, {"CKA_MODULUS", 0x120},
    {"CKA_MODULUS_BITS", 0x121}, {"CKA_PUBLIC_EXPONENT", 0x122}, {"CKA_PUBLIC_KEY_INFO", 0x129},
    {"CKA_EXTRACTABLE", 0x162}, {"CKA_LOCAL", 0x163}, {"CKA_NEVER_EXTRACTABLE", 0x164},
    {"CKA_ALWAYS_SENSITIVE", 0x165}, {"CKA_MODIFIABLE", 0x170}, {"CKA_EC_PARAMS", 0x180}, {"CKA_EC_POINT", 0x181},
    {"CKA_ALWAYS_AUTHENTICATE", 0x202}, {"CKA_ALLOWED_MECHANISMS", 0x40000600}, {NULL, 0}};
static const struct name SIDES[] = {{"*", EVERY}, {"public", PUBLIC}, {"private", PRIVATE}, {"object", OBJECT},
                                    {"unwrapped", UNWRAPPED}, {NULL, 0}};
static const struct name BECOMES[] = {{"unreadable", UNREADABLE}, {"sensitive", SENSITIVE}, {"empty", EMPTY},
                                      {"flip", FLIP}, {"hexid", HEXID}, {"is", IS}, {NULL, 0}};

enum { MAX_LINE = 300, MAX_QUIRKS = 32, MAX_TEXT = 80, MAX_VALUE = 140 };
struct bytes { word length; unsigned char at[MAX_VALUE]; };
struct quirk {
    enum kind kind;
    int function, only;                        /* ANY where none is said */
    word mechanism, asked, code, attribute, number, side, become;
    bool other, when_false, first, hangs, has_label;  /* other: any mechanism but `mechanism` */
    word set, clear, size;                     /* size: WILD where none is said */
    char text[MAX_TEXT], label[MAX_TEXT];
    struct bytes value;
};
struct quirks { struct version version; size_t size; struct quirk at[MAX_QUIRKS]; };

static word hex_number(const char *text, const char *line) {
    if (!text || strncmp(text, "0x", 2)) DIE("a hex number belongs here: %s", line);
    char *end = NULL;
    word value = strtoul(text, &end, 16);
    if (*end || !text[2]) DIE("a number is wrong: %s", line);
    return value;
}

static word named(const struct name *names, const char *text, const char *line) {
    for (; text && names->name; names++)
        if (!strcmp(text, names->name)) return names->value;
    return hex_number(text, line);
}

static void copy_text(char *to, const char *text, const char *line) {
    if (!text || strlen(text) >= MAX_TEXT) DIE("a word is missing or too long: %s", line);
    strcpy(to, text);
}

/* 0x and pairs of hex digits, or else the text itself. */
static void read_value(struct bytes *value, const char *text, const char *line) {
    bool hex = text && !strncmp(text, "0x", 2);
    word length = text ? hex ? strlen(text + 2) / 2 : strlen(text) : 0;
    if (!length || length > MAX_VALUE || (hex && strlen(text) % 2)) DIE("a value is missing or wrong: %s", line);
    value->length = length;
    for (word i = 0; i < length; i++) {
        unsigned byte = (unsigned char)text[i];
        if (hex && sscanf(text + 2 + 2 * i, "%2x", &byte) != 1) DIE("a value is wrong: %s", line);
        value->at[i] = (unsigned char)byte;
    }
}

static void read_argument(struct quirk *quirk, char kind, const char *text, int before, char **rest, const char *line) {
    switch (kind) {
    case 'm':
        if (quirk->kind == MAPS && before) {
            quirk->asked = named(MECHANISMS, text, line);
            break;
        }
        quirk->other = text && *text == '!';
        quirk->mechanism = named(MECHANISMS, quirk->other ? text + 1 : text, line);
        break;
    case 'f': quirk->function = function_named(text ? text : "", line); break;
    case 'c': quirk->code = hex_number(text, line); break;
    case 'h': quirk->number = hex_number(text, line); break;
    case 'd': {
        char *end = NULL;
        quirk->number = text ? strtoul(text, &end, 10) : 0;
        if (!end || end == text || *end) DIE("a decimal number is missing or wrong: %s", line);
        break;
    }
    case 'a': quirk->attribute = named(ATTRIBUTES, text, line); break;
    case 't': case 'o': quirk->side = named(SIDES, text, line); break;
    case 'w': copy_text(quirk->text, text, line); break;
    case 'x':
        quirk->become = named(BECOMES, text, line);
        if (quirk->become == IS) read_value(&quirk->value, strtok_r(NULL, " ", rest), line);
        break;
    default: abort();
    }
}

static void read_option(struct quirk *quirk, const char *text, const char *line) {
    const char *equals = strchr(text, '='), *value = equals ? equals + 1 : NULL;
    char known[16] = "";
    if (strlen(text) < MAX_TEXT) sscanf(text, "%14[^=]", known);
    if (equals) strcat(known, "=");
    if (!*known || !strstr(KINDS[quirk->kind].options, known)) DIE("'%s' is not understood: %s", text, line);
    if (!strcmp(text, "false")) quirk->when_false = true;
    else if (!strcmp(text, "first")) quirk->first = true;
    else if (!strcmp(text, "hangs")) quirk->hangs = true;
    else if (!strncmp(text, "flags=", 6) || !strncmp(text, "set=", 4)) quirk->set = hex_number(value, line);
    else if (!strncmp(text, "clear=", 6)) quirk->clear = hex_number(value, line);
    else if (!strncmp(text, "length=", 7)) quirk->size = (word)number(value, line);
    else if (!strncmp(text, "only=", 5)) quirk->only = function_named(value, line);
    else DIE("'%s' is not understood: %s", text, line);
}

static void read_quirk(struct quirk *quirk, const char *line) {
    char copy[MAX_LINE], *rest = NULL;
    *quirk = (struct quirk){.function = ANY, .only = ANY, .size = WILD};
    strcpy(copy, line);
    char *label = strstr(copy, " label="); /* the last option: a label may have blanks */
    if (label) {
        copy_text(quirk->label, label + strlen(" label="), line);
        quirk->has_label = true;
        *label = 0;
    }
    const char *next = strtok_r(copy, " ", &rest);
    while (quirk->kind < KIND_COUNT && (!next || strcmp(next, KINDS[quirk->kind].name))) quirk->kind++;
    if (quirk->kind == KIND_COUNT) DIE("no such quirk: %s", line);
    const char *arguments = KINDS[quirk->kind].arguments;
    for (int i = 0; arguments[i]; i++) read_argument(quirk, arguments[i], strtok_r(NULL, " ", &rest), i, &rest, line);
    while ((next = strtok_r(NULL, " ", &rest))) read_option(quirk, next, line);
    if (label && !KINDS[quirk->kind].label) DIE("this quirk takes no label: %s", line);
    if (quirk->kind == FORBID && quirk->function != at_C_SignInit && quirk->function != at_C_Sign &&
        quirk->function != at_C_DecryptInit && quirk->function != at_C_Decrypt &&
        quirk->function != at_C_GenerateKeyPair)
        DIE("this quirk is not for this function: %s", line);
}

static const char *quirks_path;
static const struct quirks *_Atomic current;

/* What was read is never freed: another thread may be reading it. */
static const struct quirks *read_quirks(void) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    FILE *file = fopen(quirks_path, "re");
    struct stat status;
    if (!file || fstat(fileno(file), &status)) DIE("cannot read %s", quirks_path);
    const struct version version = version_of(&status);
    struct quirks *quirks = calloc(1, sizeof *quirks);
    char line[MAX_LINE];
    while (fgets(line, sizeof line, file)) {
        char *end = strchr(line, '\n');
        if (!end) DIE("a line that does not end, or of more than %d characters: %s", MAX_LINE - 2, line);
        *end = 0;
        if (quirks->size == MAX_QUIRKS) DIE("more than %d quirks", MAX_QUIRKS);
        read_quirk(&quirks->at[quirks->size++], line);
    }
    quirks->version = version;
    fclose(file);
    current = quirks;
    pthread_mutex_unlock(&lock);
    return quirks;
}

static const struct quirks *quirks_now(void) {
    struct stat status;
    if (stat(quirks_path, &status)) DIE("no quirks file %s", quirks_path);
    const struct version version = version_of(&status);
    const struct quirks *quirks = current;
    return quirks && same(&quirks->version, &version) ? quirks : read_quirks();
}

/* The next quirk of a kind after `last` (NULL: the first); NULL where there is none. Quirks of one call come from one
 * reading of the file: `all` is what call() read. */
static _Thread_local const struct quirks *all;

static const struct quirk *next_of(enum kind kind, const struct quirk *last) {
    for (const struct quirk *quirk = last ? last + 1 : all->at; quirk < all->at + all->size; quirk++)
        if (quirk->kind == kind) return quirk;
    return NULL;
}

#define EACH(quirk, kind) const struct quirk *quirk = next_of(kind, NULL); quirk; quirk = next_of(kind, quirk)
