/* A stand-in for libnvidia-ml.so.1: says what the file beside it (its own name with ".state" as suffix) says.
 *
 *   init N        what nvmlInit_v2 returns
 *   driver TEXT   version
 *   hang 1        every call sleeps for ever
 *   gpu RET UUID BUS TOTAL_MIB USED_MIB NAME...
 *   mig NAME      an instance of the GPU above, each with a seventh of its memory
 *   link BUS      an NVLink of the GPU above
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, LOST = 15, MOST = 8 };
typedef unsigned long long Bytes;

struct gpu {
    int ret, n_mig, n_link;
    char uuid[80], bus[32], name[96], mig[MOST][96], link[MOST][32];
    Bytes total, used;
};
static struct gpu gpus[MOST];
static int n_gpus, init_code, hangs;
static char driver[80];

static void rest_of(char *into, size_t size, const char *line, int from) {
    snprintf(into, size, "%s", line + from);
    into[strcspn(into, "\n")] = 0;
}

static void read_state(void) {
    Dl_info self;
    char path[4096], line[512];
    dladdr((void *)read_state, &self);
    snprintf(path, sizeof path, "%s", self.dli_fname);
    strcpy(strrchr(path, '.'), ".state");
    FILE *file = fopen(path, "r");
    n_gpus = init_code = hangs = 0;
    while (file && fgets(line, sizeof line, file)) {
        struct gpu *last = &gpus[n_gpus ? n_gpus - 1 : 0], *next = &gpus[n_gpus];
        int from = 0;
        if (sscanf(line, "init %d", &init_code) == 1 || sscanf(line, "hang %d", &hangs) == 1) continue;
        if (!strncmp(line, "driver ", 7)) rest_of(driver, sizeof driver, line, 7);
        else if (!strncmp(line, "mig ", 4)) rest_of(last->mig[last->n_mig++], 96, line, 4);
        else if (!strncmp(line, "link ", 5)) rest_of(last->link[last->n_link++], 32, line, 5);
        else if (n_gpus < MOST && sscanf(line, "gpu %d %79s %31s %llu %llu %n", &next->ret, next->uuid, next->bus,
                                         &next->total, &next->used, &from) == 5) {
            next->n_mig = next->n_link = 0;
            rest_of(next->name, sizeof next->name, line, from);
            n_gpus++;
        }
    }
    if (file) fclose(file);
    while (hangs) pause();
}

/* Handles: 1 + 16 * gpu + (0, or 1 + instance). */
static struct gpu *of(void *handle, int *instance) {
    size_t number = (size_t)handle - 1;
    read_state();
    *instance = (int)(number % 16) - 1;
    return number / 16 < (size_t)n_gpus ? &gpus[number / 16] : 0;
}
#define WITH(handle)                        \
    int instance;                           \
    struct gpu *gpu = of(handle, &instance); \
    if (!gpu) return LOST;                  \
    if (gpu->ret) return gpu->ret

static int put(char *into, unsigned size, const char *text) {
    if (strlen(text) + 1 > size) return SMALL;
    strcpy(into, text);
    return OK;
}

int nvmlInit_v2(void) { read_state(); return init_code; }
int nvmlSystemGetDriverVersion(char *into, unsigned size) { read_state(); return put(into, size, driver); }
int nvmlDeviceGetCount_v2(unsigned *n) { read_state(); *n = n_gpus; return init_code; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **handle) {
    read_state();
    if (i >= (unsigned)n_gpus) return INVALID;
    *handle = (void *)(size_t)(1 + 16 * i);
    return OK;
}
int nvmlDeviceGetName(void *h, char *into, unsigned size) {
    WITH(h);
    return put(into, size, instance < 0 ? gpu->name : gpu->mig[instance]);
}
int nvmlDeviceGetUUID(void *h, char *into, unsigned size) {
    WITH(h);
    char text[96];
    snprintf(text, sizeof text, instance < 0 ? "%s" : "MIG-%s-%d", gpu->uuid, instance);
    return put(into, size, text);
}
int nvmlDeviceGetPciInfo_v3(void *h, char *info) {
    WITH(h);
    memset(info, 0, 68);
    strncpy(info + 36, gpu->bus, 31);
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *h, Bytes *m) {
    WITH(h);
    if (!gpu->total) return UNSUPPORTED;
    m[0] = gpu->total << 20; m[1] = (gpu->total - gpu->used) << 20; m[2] = gpu->used << 20;
    return OK;
}
#ifndef OLD /* a driver of before some functions were there */
int nvmlDeviceGetMemoryInfo_v2(void *h, Bytes *m) {
    WITH(h);
    if (!gpu->total) return UNSUPPORTED;
    Bytes total = gpu->total << 20, used = gpu->used << 20;
    if (instance >= 0) { total /= 7; used /= 7; }
    m[1] = total; m[2] = 0; m[3] = total - used; m[4] = used;
    return (unsigned)m[0] == (40u | 2u << 24) ? OK : INVALID;
}
int nvmlDeviceGetEnforcedPowerLimit(void *h, unsigned *mw) { WITH(h); *mw = 450000; return OK; }
#endif
int nvmlDeviceGetUtilizationRates(void *h, unsigned *u) { WITH(h); u[0] = 37; u[1] = 5; return OK; }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *t) { WITH(h); (void)sensor; *t = 61; return OK; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *mw) { WITH(h); *mw = 123000; return OK; }
int nvmlDeviceGetCudaComputeCapability(void *h, int *major, int *minor) { WITH(h); *major = 8; *minor = 9; return OK; }
int nvmlDeviceGetEccMode(void *h, unsigned *now, unsigned *next) { WITH(h); *now = *next = 1; return OK; }
int nvmlDeviceGetTotalEccErrors(void *h, int type, int counter, Bytes *n) {
    WITH(h);
    (void)counter;
    *n = type == 1 ? 2 : 1000;
    return OK;
}
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) {
    WITH(h);
    *now = *next = gpu->n_mig > 0;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *n) { WITH(h); *n = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned i, void **part) {
    WITH(h);
    if ((int)i >= gpu->n_mig) return 6;
    *part = (void *)((size_t)h + 1 + i);
    return OK;
}
int nvmlDeviceGetNvLinkState(void *h, unsigned i, unsigned *active) {
    WITH(h);
    if ((int)i >= gpu->n_link) return INVALID;
    *active = 1;
    return OK;
}
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *h, unsigned i, char *info) {
    WITH(h);
    memset(info, 0, 68);
    strncpy(info + 36, gpu->link[i], 31);
    return OK;
}
