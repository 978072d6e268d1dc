/* Preloaded (ld.so(8), LD_PRELOAD): names under .test (RFC 6761) are this machine, without a name server or root: its
 * IPv4 address, and of those that begin with "both" ::1 first. */
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
    if (length >= sizeof zone && !strcmp(node + length - (sizeof zone - 1), zone)) {
        if (!strncmp(node, "both", 4))
            return real(NULL, service ? service : "0", hints, found);
        node = "127.0.0.1";
    }
    return real(node, service, hints, found);
}
