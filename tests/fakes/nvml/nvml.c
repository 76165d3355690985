/* A libnvidia-ml.so.1 of two GPUs that fail and hang as a file says.
 *
 * The file named by FAKE_NVML is read at every call. Its lines are `KEY DEVICE VALUE`:
 *   fail D CODE   calls for device D answer the NVML error CODE (15: GPU is lost)
 *   hang D 1      calls for device D do not come back while the line is there
 *   free D MIB    free memory of device D
 *   init 0 CODE   nvmlInit answers CODE
 *   mig D COUNT   device D is cut into so many slices; the second place of each card is empty
 *   mode D MODE   compute mode of device D (0: shared, 3: one process alone)
 *   pid D PID     the process PID computes on device D
 *   used D MIB    and has so much of its memory
 * Signatures and codes: NVIDIA Management Library API reference.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1024ULL * 1024ULL)
#define INSUFFICIENT_SIZE 7
#define DEVICES 2

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned int gpu, memory; } utilization_t;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_t;

static int setting(const char *key, int device, int otherwise) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char name[32];
    int number, value, found = otherwise;
    while (file && fscanf(file, "%31s %d %d", name, &number, &value) == 3)
        if (strcmp(name, key) == 0 && number == device)
            found = value;
    if (file)
        fclose(file);
    return found;
}

/* Handles of cards count from 1, those of slices from 1,001 for card 0, 2,001 for card 1. */
static int device_of(void *handle) {
    long number = (long)handle;
    return (int)(number > 1000 ? number / 1000 - 1 : number - 1);
}

static int slice_of(void *handle) { return (long)handle > 1000 ? (int)((long)handle % 1000) - 1 : -1; }

static int visit(void *handle) {
    int device = device_of(handle);
    while (setting("hang", device, 0))
        usleep(10000);
    return setting("fail", device, 0);
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return setting("init", 0, 0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }
int nvmlSystemGetDriverVersion(char *text, unsigned int size) { snprintf(text, size, "555.42.06"); return 0; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = DEVICES; return setting("init", 0, 0); }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
    *handle = (void *)(long)(index + 1);
    return visit(*handle);
}

int nvmlDeviceGetName(void *handle, char *text, unsigned int size) {
    int slice = slice_of(handle);
    snprintf(text, size, slice < 0 ? "NVIDIA Stand-in %d" : "NVIDIA Stand-in %d MIG 1g.5gb", device_of(handle));
    return visit(handle);
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned int size) {
    if (slice_of(handle) < 0)
        snprintf(text, size, "GPU-0000-%04d", device_of(handle));
    else
        snprintf(text, size, "MIG-0000-%04d-%d", device_of(handle), slice_of(handle));
    return visit(handle);
}

int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    int whole = slice_of(handle) < 0;
    memory->total = (whole ? 24576 : 4864) * MIB;
    memory->free = (whole ? setting("free", device_of(handle), 20000) : 4800) * MIB;
    memory->used = memory->total - memory->free;
    return visit(handle);
}

int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) {
    rates->gpu = 37;
    rates->memory = 12;
    return visit(handle);
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *celsius) {
    (void)sensor;
    *celsius = 61;
    return visit(handle);
}

int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending) {
    *current = *pending = setting("mig", device_of(handle), 0) > 0;
    return visit(handle);
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned int *count) {
    *count = 7;
    return visit(handle);
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned int index, void **slice) {
    int device = device_of(handle), count = setting("mig", device, 0);
    if (index == 1 || (int)index > count)
        return 6; /* not found */
    *slice = (void *)(long)((device + 1) * 1000 + (int)index + 1);
    return visit(handle);
}

int nvmlDeviceGetComputeMode(void *handle, unsigned int *mode) {
    *mode = setting("mode", device_of(handle), 0);
    return visit(handle);
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_t *processes) {
    int pid = setting("pid", device_of(handle), 0);
    unsigned int room = *count;
    *count = pid != 0;
    if (pid && room == 0)
        return INSUFFICIENT_SIZE;
    if (pid) {
        process_t one = {(unsigned int)pid, setting("used", device_of(handle), 0) * MIB, 0, 0};
        processes[0] = one;
    }
    return visit(handle);
}
