/* Objects as the quirks make them look, and which templates make new ones. quirks_module.c alone includes this. */

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
