/* Slots, tokens and mechanisms as the quirks make them look. quirks_module.c alone includes this. */

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
