/* C_Initialize, sessions, logins and signatures as the quirks make them. quirks_module.c alone includes this. */

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
