/* Preloaded (ld.so(8), LD_PRELOAD): names under .test (RFC 6761) are this machine, without a name server or root. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>

static const char zone[] = ".test";

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "getaddrinfo");
    size_t length = node ? strlen(node) : 0;
    if (length >= sizeof zone && !strcmp(node + length - (sizeof zone - 1), zone))
        node = "127.0.0.1";
    return real(node, service, hints, found);
}
