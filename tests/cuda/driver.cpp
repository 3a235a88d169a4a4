// A stand-in for libcuda: the driver calls that ddu makes, with device memory in host memory and the
// kernels run by the simt device. It proves which calls are made, in which order and with what; of a GPU
// it proves nothing.
//
// Work given to a stream waits until somebody waits for it, so that a staging buffer used too early or
// host memory read too early shows. What the real driver forbids or leaves undefined ends the process
// with a line "stand-in driver: ..."; what it answers with an error is answered so.
//
// DDU_STANDIN="devices=1,version=13000,capability=90,shared=232448,memory=BYTES,init=N,retain=N,image=N,
// fail=KERNEL,forget=1" changes what it stands for (init, retain and image: the error of that call; fail: a kernel
// that ends with an illegal address; forget: of a graph's kernel that waits for several it drops the first). DDU_STANDIN_LOG names a file that gets a line per call.
#include <algorithm>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "../../kernels/simt/api.h"
#include "../../kernels/simt/tensor_map.h"

namespace {

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NOT_FOUND = 500,
    ILLEGAL_ADDRESS = 700,
    INVALID_CLUSTER = 912,
};

struct Names {
    int code;
    const char *name, *text;
};
constexpr Names NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {INVALID_CLUSTER, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "cluster misconfiguration"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
};

// --- what it stands for -----------------------------------------------------------------------------

std::string option(const std::string& name) {
    const char* all = std::getenv("DDU_STANDIN");
    std::string rest = std::string(",") + (all ? all : "") + ",";
    const size_t at = rest.find("," + name + "=");
    if (at == std::string::npos) return "";
    const size_t start = at + name.size() + 2;
    return rest.substr(start, rest.find(',', start) - start);
}

uint64_t number(const std::string& name, uint64_t otherwise) {
    const std::string value = option(name);
    return value.empty() ? otherwise : std::stoull(value);
}

int device_count() { return int(number("devices", 1)); }

void log(const char* format, ...) {
    static std::FILE* file = [] {
        const char* path = std::getenv("DDU_STANDIN_LOG");
        return path ? std::fopen(path, "a") : nullptr;
    }();
    if (!file) return;
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(file, format, arguments);
    va_end(arguments);
    std::fputc('\n', file);
    std::fflush(file);
}

[[noreturn]] void violation(const std::string& what) {
    std::fprintf(stderr, "stand-in driver: %s\n", what.c_str());
    std::fflush(stderr);
    std::abort();
}

// --- its state --------------------------------------------------------------------------------------

struct Operation {
    std::function<void()> run;
};

struct Module {
    int device;
    bool all;  // a fatbin cannot be looked into: every kernel is its
    std::set<std::string> names;
};
struct Function {
    Module* module;
    std::string name;
    uint32_t params_bytes, threads;
    uint64_t shared = 47 << 10;  // of 48 KiB; from 9.0 on the compiler counts a reserved KiB as static
    bool loaded = false;
};
struct Kernel {
    Function* function;
    uint32_t grid[3], cluster;
    uint32_t threads;
    uint64_t shared;
    std::vector<uint64_t> params;
};
struct Node {
    Kernel kernel;
    std::vector<size_t> after;  // nodes of the same graph, all before it
};
struct Graph {
    int device;
    std::deque<Node> nodes;  // a handle of one is its address
};
struct Stream {
    int device;
    std::deque<Operation> queue = {};
};
struct Event {
    int device;
    bool timed;
    uint64_t recorded = 0, past = 0;  // how many records were asked for and were reached
    double time = 0;
    Stream* stream = nullptr;
};
struct Memory {
    int device;
    uint64_t bytes;
};
struct Pinned {
    int device;
    uint64_t bytes;
    bool write_combined;
};
struct Device {
    int retained = 0;
    uint64_t taken = 0;
    int failed = SUCCESS;  // sticky
};

std::recursive_mutex mutex;
Device devices[8];
thread_local int current = -1;
// Those that were current before the pushes.
thread_local std::vector<int> below;
std::map<uint64_t, Memory> memory;
std::map<uint64_t, Pinned> pinned;
// A handle is the address of one of these.
std::set<Stream*> streams;
std::set<Event*> events;
std::set<Module*> modules;
std::map<Function*, Module*> functions;
std::set<Graph*> graphs, execs;

template <class T>
T* alive(const std::set<T*>& all, T* handle, const char* what) {
    if (!all.count(handle)) violation(std::string(what) + " that is not alive");
    if (handle->device != current) violation(std::string(what) + " of another context");
    return handle;
}

// Every call that needs a context: it must be current, and alive.
#define ENTER(NAME)              \
    std::lock_guard lock(mutex); \
    if (int failed = enter(NAME)) return failed

int enter(const char* name) {
    if (current < 0) violation(std::string(name) + " without a current context");
    if (!devices[current].retained) violation(std::string(name) + " with a context that was released");
    return devices[current].failed;
}

// The live range that `bytes` at `address` lie in.
template <class T>
const T& range(const std::map<uint64_t, T>& all, uint64_t address, uint64_t bytes, const std::string& what) {
    auto after = all.upper_bound(address);
    if (after != all.begin()) {
        auto found = std::prev(after);
        if (address + bytes <= found->first + found->second.bytes) return found->second;
    }
    violation(what + ": " + std::to_string(bytes) + " bytes that are not inside live memory");
}

void at_rest(const char* what) {
    for (Stream* stream : streams) {
        if (stream->device == current && !stream->queue.empty()) violation(std::string(what) + " while work is under way");
    }
}

void drain(Stream* stream, const std::function<bool()>& enough) {
    while (!stream->queue.empty() && !enough()) {
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        if (devices[stream->device].failed == SUCCESS) operation.run();
    }
}

void drain(Stream* stream) {
    drain(stream, [] { return false; });
}

void execute(int device, const Kernel& node) {
    if (!functions.count(node.function)) violation("a kernel that runs after its module was unloaded");
    const std::string& name = node.function->name;
    if (option("fail") == name) {
        log("failed %s", name.c_str());
        devices[device].failed = ILLEGAL_ADDRESS;
        return;
    }
    DduSimtLaunch request{};
    request.kernel = name.c_str();
    request.params = node.params.data();
    request.params_bytes = node.function->params_bytes;
    request.grid_x = node.grid[0];
    request.grid_y = node.grid[1];
    request.grid_z = node.grid[2];
    request.threads = node.threads;
    request.shared_bytes = node.shared;
    request.workers = 2;
    request.cluster = node.cluster;
    char error[1024];
    if (ddu_simt_launch(&request, error, sizeof error)) {
        std::fprintf(stderr, "stand-in driver: %s\n", error);
        log("failed %s", error);
        devices[device].failed = ILLEGAL_ADDRESS;
    }
}

void enqueue(Stream* stream, const Kernel& node) {
    const int device = stream->device;
    stream->queue.push_back({[device, node] { execute(device, node); }});
}

// The simt table's entry of a kernel.
bool find_kernel(const std::string& name, Function& function) {
    const char* found;
    for (uint32_t i = 0; (found = ddu_simt_kernel(i, &function.params_bytes, &function.threads)); ++i) {
        if (name == found) return true;
    }
    return false;
}

double now() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

size_t alive_handles(int device) {
    size_t n = 0;
    auto of = [device](auto* handle) { return handle->device == device; };
    for (auto* handle : streams) n += of(handle);
    for (auto* handle : events) n += of(handle);
    for (auto* handle : modules) n += of(handle);
    for (auto* handle : graphs) n += of(handle);
    for (auto* handle : execs) n += of(handle);
    for (auto& [address, buffer] : memory) n += buffer.device == device;
    for (auto& [address, buffer] : pinned) n += buffer.device == device;
    return n;
}

struct End {
    ~End() {
        int contexts = 0;
        for (auto& device : devices) contexts += device.retained;
        log("end, %d contexts retained", contexts);
    }
} end;

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// --- the driver and its devices -----------------------------------------------------------------------

EXPORT int cuInit(unsigned) {
    if (uint64_t code = number("init", 0)) return int(code);
    return device_count() ? SUCCESS : NO_DEVICE;
}

EXPORT int cuDriverGetVersion(int* version) {
    *version = int(number("version", 13000));
    return SUCCESS;
}

EXPORT int cuGetErrorName(int error, const char** name) {
    for (auto& entry : NAMES) {
        if (entry.code == error) return *name = entry.name, SUCCESS;
    }
    return INVALID_VALUE;
}

EXPORT int cuGetErrorString(int error, const char** text) {
    for (auto& entry : NAMES) {
        if (entry.code == error) return *text = entry.text, SUCCESS;
    }
    return INVALID_VALUE;
}

EXPORT int cuDeviceGetCount(int* count) {
    *count = device_count();
    return SUCCESS;
}

EXPORT int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= device_count()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

EXPORT int cuDeviceGetName(char* name, int bytes, int) {
    std::snprintf(name, bytes, "stand-in GPU");
    return SUCCESS;
}

EXPORT int cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = number("memory", uint64_t(16) << 30);
    return SUCCESS;
}

EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
    const int capability = int(number("capability", 90));
    switch (attribute) {
        case 13: *value = int(number("clock", 1980000)); break;  // kHz
        case 16: *value = int(number("multiprocessors", 132)); break;
        case 33: *value = 0x17; break;  // PCI bus, device, domain
        case 34:
        case 50: *value = 0; break;
        case 36: *value = int(number("memory_clock", 3201000)); break;
        case 37: *value = int(number("memory_bus", 6144)); break;
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        case 97: *value = int(number("shared", 232448)); break;  // of a block, opted in
        default: violation("device attribute " + std::to_string(attribute) + " is not one that it knows");
    }
    return SUCCESS;
}

// --- contexts ---------------------------------------------------------------------------------------

EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
    std::lock_guard lock(mutex);
    if (uint64_t code = number("retain", 0)) return int(code);
    ++devices[device].retained;
    *context = &devices[device];
    log("cuDevicePrimaryCtxRetain %d", device);
    return SUCCESS;
}

EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard lock(mutex);
    if (!devices[device].retained) violation("a context released more often than retained");
    if (!--devices[device].retained) {
        // After a fault nothing can be freed any more.
        const size_t n = devices[device].failed ? 0 : alive_handles(device);
        if (n) violation("a context released with " + std::to_string(n) + " handles alive");
        if (current == device) violation("a context released that is current");
        devices[device].failed = SUCCESS;
    }
    log("cuDevicePrimaryCtxRelease %d", device);
    return SUCCESS;
}

EXPORT int cuCtxSetCurrent(void* context) {
    std::lock_guard lock(mutex);
    const int device = context ? int(static_cast<Device*>(context) - devices) : -1;
    if (device >= 0 && !devices[device].retained) violation("cuCtxSetCurrent of a context that was released");
    current = device;
    return SUCCESS;
}

EXPORT int cuCtxPushCurrent_v2(void* context) {
    std::lock_guard lock(mutex);
    if (!context) violation("cuCtxPushCurrent of no context");
    below.push_back(current);
    return cuCtxSetCurrent(context);
}

EXPORT int cuCtxPopCurrent_v2(void** context) {
    std::lock_guard lock(mutex);
    if (below.empty()) violation("cuCtxPopCurrent without a push");
    *context = current < 0 ? nullptr : &devices[current];
    current = below.back();
    below.pop_back();
    return SUCCESS;
}

EXPORT int cuCtxGetCurrent(void** context) {
    std::lock_guard lock(mutex);
    *context = current < 0 ? nullptr : &devices[current];
    return SUCCESS;
}

// --- modules and functions ----------------------------------------------------------------------------

EXPORT int cuModuleLoadData(Module** module, const void* image) {
    ENTER("cuModuleLoadData");
    if (reinterpret_cast<uintptr_t>(image) % 8) violation("cuModuleLoadData of a misaligned image");
    if (uint64_t code = number("image", 0)) return int(code);
    // Either a fatbin or, from a test, the names of kernels, one per line.
    static const char HEADER[] = "stand-in kernels\n";
    auto* text = static_cast<const char*>(image);
    const bool fatbin = std::memcmp(image, "\x50\xed\x55\xba", 4) == 0;
    std::set<std::string> names;
    if (!fatbin) {
        if (std::strncmp(text, HEADER, sizeof HEADER - 1)) return INVALID_IMAGE;
        text += sizeof HEADER - 1;
        while (const char* stop = std::strchr(text, '\n')) {
            names.emplace(text, stop);
            text = stop + 1;
        }
    }
    *module = *modules.insert(new Module{current, fatbin, names}).first;
    log("cuModuleLoadData");
    return SUCCESS;
}

EXPORT int cuModuleUnload(Module* module) {
    ENTER("cuModuleUnload");
    alive(modules, module, "a module");
    std::erase_if(functions, [module](auto& entry) { return entry.second == module; });
    modules.erase(module);
    return SUCCESS;
}

EXPORT int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    ENTER("cuModuleGetFunction");
    alive(modules, module, "a module");
    Function found{module, name, 0, 0};
    if (!find_kernel(name, found) || (!module->all && !module->names.count(name))) return NOT_FOUND;
    *function = new Function(found);
    functions[*function] = module;
    return SUCCESS;
}

Function* alive_function(Function* function) {
    if (!functions.count(function)) violation("a function whose module is not loaded");
    if (functions[function]->device != current) violation("a function of another context");
    return function;
}

EXPORT int cuFuncLoad(Function* function) {
    ENTER("cuFuncLoad");
    alive_function(function)->loaded = true;
    return SUCCESS;
}

EXPORT int cuFuncGetAttribute(int* value, int attribute, Function* function) {
    ENTER("cuFuncGetAttribute");
    alive_function(function);
    switch (attribute) {
        case 0: *value = int(function->threads); break;
        default: violation("function attribute " + std::to_string(attribute) + " is not one that it knows");
    }
    return SUCCESS;
}

EXPORT int cuFuncGetParamInfo(Function* function, size_t i, size_t* offset, size_t* bytes) {
    ENTER("cuFuncGetParamInfo");
    alive_function(function);
    if (i) return INVALID_VALUE;
    *offset = 0;
    *bytes = function->params_bytes;
    return SUCCESS;
}

EXPORT int cuFuncSetAttribute(Function* function, int attribute, int value) {
    ENTER("cuFuncSetAttribute");
    alive_function(function);
    if (attribute != 8) violation("cuFuncSetAttribute of another attribute than the dynamic shared memory");
    if (value < 0 || uint64_t(value) > number("shared", 232448)) return INVALID_VALUE;
    function->shared = uint64_t(value);
    return SUCCESS;
}

// --- memory -----------------------------------------------------------------------------------------

EXPORT int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    ENTER("cuMemAlloc");
    if (!bytes) return INVALID_VALUE;
    Device& device = devices[current];
    if (bytes > number("memory", uint64_t(16) << 30) - device.taken) return OUT_OF_MEMORY;
    void* data = ddu_simt_alloc(bytes);
    if (!data) return OUT_OF_MEMORY;
    *address = reinterpret_cast<uint64_t>(data);
    memory[*address] = {current, bytes};
    device.taken += bytes;
    log("cuMemAlloc %zu", bytes);
    return SUCCESS;
}

EXPORT int cuMemFree_v2(uint64_t address) {
    ENTER("cuMemFree");
    auto found = memory.find(address);
    if (found == memory.end() || found->second.device != current) violation("cuMemFree of what is no live memory of the context");
    at_rest("cuMemFree");
    devices[current].taken -= found->second.bytes;
    ddu_simt_free(reinterpret_cast<void*>(address));
    memory.erase(found);
    log("cuMemFree");
    return SUCCESS;
}

EXPORT int cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER("cuMemGetInfo");
    *total = number("memory", uint64_t(16) << 30);
    *free = *total - devices[current].taken;
    return SUCCESS;
}

EXPORT int cuMemHostAlloc(void** data, size_t bytes, unsigned flags) {
    ENTER("cuMemHostAlloc");
    *data = std::malloc(bytes);
    pinned[reinterpret_cast<uint64_t>(*data)] = {current, bytes, (flags & 4) != 0};
    log("cuMemHostAlloc %zu", bytes);
    return SUCCESS;
}

EXPORT int cuMemFreeHost(void* data) {
    ENTER("cuMemFreeHost");
    at_rest("cuMemFreeHost");
    if (!pinned.erase(reinterpret_cast<uint64_t>(data))) violation("cuMemFreeHost of what is not pinned");
    std::free(data);
    return SUCCESS;
}

EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, Stream* stream) {
    ENTER("cuMemcpyHtoDAsync");
    alive(streams, stream, "a stream");
    const uint64_t source = reinterpret_cast<uint64_t>(from);
    auto check = [=] {
        range(memory, to, bytes, "an upload to");
        range(pinned, source, bytes, "an asynchronous upload from");
    };
    check();
    stream->queue.push_back({[=] {
        check();
        std::memcpy(reinterpret_cast<void*>(to), from, bytes);
    }});
    log("cuMemcpyHtoDAsync %zu", bytes);
    return SUCCESS;
}

EXPORT int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, Stream* stream) {
    ENTER("cuMemcpyDtoHAsync");
    alive(streams, stream, "a stream");
    const uint64_t target = reinterpret_cast<uint64_t>(to);
    auto check = [=] {
        range(memory, from, bytes, "a download from");
        const Pinned& host = range(pinned, target, bytes, "an asynchronous download to");
        if (host.write_combined) violation("a download to write-combined memory, which the host cannot read in time");
    };
    check();
    std::memset(to, 0x5a, bytes);  // what a host that does not wait reads
    stream->queue.push_back({[=] {
        check();
        std::memcpy(to, reinterpret_cast<void*>(from), bytes);
    }});
    log("cuMemcpyDtoHAsync %zu", bytes);
    return SUCCESS;
}

EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, Stream* stream) {
    ENTER("cuMemcpyDtoDAsync");
    alive(streams, stream, "a stream");
    auto check = [=] {
        range(memory, from, bytes, "a copy from");
        range(memory, to, bytes, "a copy to");
    };
    check();
    stream->queue.push_back({[=] {
        check();
        std::memcpy(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), bytes);
    }});
    log("cuMemcpyDtoDAsync %zu", bytes);
    return SUCCESS;
}

// --- streams and events -------------------------------------------------------------------------------

EXPORT int cuStreamCreate(Stream** stream, unsigned) {
    ENTER("cuStreamCreate");
    *stream = *streams.insert(new Stream{current}).first;
    log("cuStreamCreate");
    return SUCCESS;
}

EXPORT int cuStreamDestroy_v2(Stream* stream) {
    ENTER("cuStreamDestroy");
    if (!alive(streams, stream, "a stream")->queue.empty()) violation("cuStreamDestroy while work is under way");
    streams.erase(stream);
    delete stream;
    return SUCCESS;
}

EXPORT int cuStreamSynchronize(Stream* stream) {
    ENTER("cuStreamSynchronize");
    drain(alive(streams, stream, "a stream"));
    log("cuStreamSynchronize");
    return devices[current].failed;
}

EXPORT int cuEventCreate(Event** event, unsigned flags) {
    ENTER("cuEventCreate");
    *event = *events.insert(new Event{current, (flags & 2) == 0}).first;
    log("cuEventCreate");
    return SUCCESS;
}

EXPORT int cuEventDestroy_v2(Event* event) {
    ENTER("cuEventDestroy");
    alive(events, event, "an event");
    if (event->past != event->recorded) violation("cuEventDestroy while its work is under way");
    events.erase(event);
    delete event;
    return SUCCESS;
}

EXPORT int cuEventRecord(Event* event, Stream* stream) {
    ENTER("cuEventRecord");
    alive(events, event, "an event");
    event->stream = alive(streams, stream, "a stream");
    const uint64_t turn = ++event->recorded;
    stream->queue.push_back({[event, turn] {
        event->past = turn;
        event->time = now();
    }});
    return SUCCESS;
}

EXPORT int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    ENTER("cuStreamWaitEvent");
    alive(streams, stream, "a stream");
    alive(events, event, "an event");
    const uint64_t turn = event->recorded;
    stream->queue.push_back({[event, turn] {
        if (event->past < turn) drain(event->stream, [event, turn] { return event->past >= turn; });
    }});
    return SUCCESS;
}

EXPORT int cuEventSynchronize(Event* event) {
    ENTER("cuEventSynchronize");
    alive(events, event, "an event");
    if (event->past != event->recorded) {
        drain(alive(streams, event->stream, "a stream"), [event] { return event->past == event->recorded; });
    }
    return devices[current].failed;
}

EXPORT int cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
    ENTER("cuEventElapsedTime");
    for (Event* event : {start, end}) {
        alive(events, event, "an event");
        if (!event->timed) violation("the time of an event that takes none");
        if (!event->recorded || event->past != event->recorded) violation("the time of an event that is not past");
    }
    *milliseconds = float(end->time - start->time);
    return SUCCESS;
}

// --- tensor maps --------------------------------------------------------------------------------------
// What the driver API asks of each; the map is that of the simt device and the interpreter. It reads no memory and needs no context.

namespace {

bool encode(simt::TensorMap* map, uint32_t mode, int type, uint32_t rank, void* address, const uint64_t* sizes, const uint64_t* strides,
            const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
    if (reinterpret_cast<uintptr_t>(map) % 64) violation("a tensor map that is no multiple of 64");
    if (type != 6 || interleave || promotion < 0 || promotion > 3 || fill || (swizzle != 0 && swizzle != 3))
        violation("a tensor map of a kind that it does not know");
    const uint64_t at = reinterpret_cast<uint64_t>(address);
    if (rank < 3 || rank > 4 || at % 16) return false;
    for (uint32_t i = 0; i < rank; ++i) {
        if (!sizes[i] || sizes[i] > uint64_t(1) << 32 || !steps[i] || steps[i] > 8) return false;
        if (i + 1 < rank && (strides[i] % 16 || strides[i] >= uint64_t(1) << 40)) return false;
        // Each a multiple of the one before.
        if (i && i + 1 < rank && strides[i] % strides[i - 1]) return false;
    }
    uint64_t bytes = sizes[0] * 2;
    for (uint32_t i = 1; i < rank; ++i) bytes += (sizes[i] - 1) * strides[i - 1];
    range(memory, at, bytes, "a tensor map of");
    *map = {};
    map->address = at;
    map->mode = mode;
    map->rank = rank;
    for (uint32_t i = 0; i < rank; ++i) {
        map->sizes[i] = uint32_t(sizes[i]);
        map->steps[i] = steps[i];
        if (i + 1 < rank) map->strides[i] = strides[i];
    }
    map->swizzle = swizzle ? simt::TensorMap::BYTES_128 : simt::TensorMap::PLAIN;
    return true;
}

// The innermost dimension of a box: whole chunks, no more than the swizzle's span.
bool inner(uint32_t elements, int swizzle) { return elements && elements * 2 % 16 == 0 && (!swizzle || elements * 2 <= 128); }

}  // namespace

EXPORT int cuTensorMapEncodeTiled(simt::TensorMap* map, int type, uint32_t rank, void* address, const uint64_t* sizes,
                                  const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave, int swizzle,
                                  int promotion, int fill) {
    std::lock_guard lock(mutex);
    if (!encode(map, simt::TensorMap::TILED, type, rank, address, sizes, strides, steps, interleave, swizzle, promotion, fill))
        return INVALID_VALUE;
    if (!inner(box[0], swizzle)) return INVALID_VALUE;
    for (uint32_t i = 0; i < rank; ++i) {
        if (!box[i] || box[i] > 256) return INVALID_VALUE;
        // With strides of elements the box says which part of the tensor is gone through: another reading than tensor.cpp's.
        if (steps[i] != 1) violation("a tiled tensor map with element strides");
        map->box[i] = box[i];
    }
    log("cuTensorMapEncodeTiled");
    return SUCCESS;
}

EXPORT int cuTensorMapEncodeIm2col(simt::TensorMap* map, int type, uint32_t rank, void* address, const uint64_t* sizes,
                                   const uint64_t* strides, const int* lower, const int* upper, uint32_t channels, uint32_t pixels,
                                   const uint32_t* steps, int interleave, int swizzle, int promotion, int fill) {
    std::lock_guard lock(mutex);
    if (rank != 4) violation("an im2col tensor map of a rank that it does not know");
    if (!encode(map, simt::TensorMap::IM2COL, type, rank, address, sizes, strides, steps, interleave, swizzle, promotion, fill))
        return INVALID_VALUE;
    if (!inner(channels, swizzle) || channels > 256 || !pixels || pixels > 1024) return INVALID_VALUE;
    for (int i = 0; i < 2; ++i) {
        if (lower[i] < -128 || lower[i] > 127 || upper[i] < -128 || upper[i] > 127) return INVALID_VALUE;
        map->lower[i] = lower[i];
        map->upper[i] = upper[i];
    }
    map->box[0] = channels;
    map->box[1] = pixels;
    log("cuTensorMapEncodeIm2col");
    return SUCCESS;
}

// --- launches and graphs ------------------------------------------------------------------------------

namespace {

// cuda.h's, of which one attribute is known: 4, the dimensions of a cluster.
union AttributeValue {
    char bytes[64];
    uint32_t cluster[3];
};
struct Attribute {
    int id;
    char pad[4];
    AttributeValue value;
};
struct Config {
    unsigned grid[3], block[3], shared;
    Stream* stream;
    Attribute* attributes;
    unsigned count;
};
struct KernelParams {
    Function* function;
    unsigned grid[3], block[3], shared;
    void **params, **extra;
    void *kernel, *context;
};

int check_cluster(int id, const AttributeValue& value, const unsigned* grid) {
    if (id != 4) violation("a launch attribute that it does not know");
    if (value.cluster[1] != 1 || value.cluster[2] != 1) violation("a cluster of more than one dimension");
    const uint32_t blocks = value.cluster[0];
    return number("capability", 90) < 90 || !blocks || blocks > 8 || grid[0] % blocks ? INVALID_CLUSTER : SUCCESS;
}

int check_kernel(Function* function, const unsigned* grid, const unsigned* block, unsigned shared, void** params, void** extra,
                 Kernel& kernel) {
    alive_function(function);
    if (!params || !params[0] || extra) violation("a launch without its one parameter");
    if (!function->loaded) violation("a launch of a function that may yet be loaded");
    const auto [x, y, z] = *reinterpret_cast<const unsigned (*)[3]>(grid);
    if (!x || !y || !z || y > 65535 || z > 65535 || block[1] != 1 || block[2] != 1) return INVALID_VALUE;
    if (block[0] != function->threads || shared > function->shared) return INVALID_VALUE;
    kernel = {function, {x, y, z}, 1, block[0], shared, {}};
    kernel.params.resize((function->params_bytes + 7) / 8);
    std::memcpy(kernel.params.data(), params[0], function->params_bytes);
    return SUCCESS;
}

Graph* owner_of(const Node* node) {
    for (Graph* graph : graphs) {
        for (const Node& one : graph->nodes) {
            if (&one == node) return graph;
        }
    }
    violation("a node of no graph");
}

}  // namespace

EXPORT int cuLaunchKernelEx(const Config* config, Function* function, void** params, void** extra) {
    ENTER("cuLaunchKernelEx");
    alive(streams, config->stream, "a stream");
    Kernel kernel;
    if (int refused = check_kernel(function, config->grid, config->block, config->shared, params, extra, kernel)) return refused;
    for (unsigned i = 0; i < config->count; ++i) {
        const Attribute& attribute = config->attributes[i];
        if (int refused = check_cluster(attribute.id, attribute.value, config->grid)) return refused;
        kernel.cluster = attribute.value.cluster[0];
    }
    log("cuLaunchKernel %s", function->name.c_str());
    enqueue(config->stream, kernel);
    return SUCCESS;
}

EXPORT int cuGraphCreate(Graph** graph, unsigned flags) {
    ENTER("cuGraphCreate");
    if (flags) violation("flags of cuGraphCreate");
    *graph = *graphs.insert(new Graph{current, {}}).first;
    return SUCCESS;
}

EXPORT int cuGraphAddKernelNode_v2(Node** node, Graph* graph, Node* const* after, size_t count, const KernelParams* p) {
    ENTER("cuGraphAddKernelNode");
    alive(graphs, graph, "a graph");
    Node made;
    if (int refused = check_kernel(p->function, p->grid, p->block, p->shared, p->params, p->extra, made.kernel)) return refused;
    for (size_t i = 0; i < count; ++i) {
        size_t at = 0;
        while (at < graph->nodes.size() && &graph->nodes[at] != after[i]) ++at;
        if (at == graph->nodes.size()) violation("a kernel after a node of another graph");
        made.after.push_back(at);
    }
    if (number("forget", 0) && count > 1) made.after.erase(made.after.begin());
    graph->nodes.push_back(made);
    *node = &graph->nodes.back();
    log("node %s", p->function->name.c_str());
    return SUCCESS;
}

EXPORT int cuGraphKernelNodeSetAttribute(Node* node, int id, const AttributeValue* value) {
    ENTER("cuGraphKernelNodeSetAttribute");
    alive(graphs, owner_of(node), "a graph");
    if (int refused = check_cluster(id, *value, node->kernel.grid)) return refused;
    node->kernel.cluster = value->cluster[0];
    return SUCCESS;
}

EXPORT int cuGraphDestroy(Graph* graph) {
    ENTER("cuGraphDestroy");
    graphs.erase(alive(graphs, graph, "a graph"));
    delete graph;
    return SUCCESS;
}

EXPORT int cuGraphInstantiateWithFlags(Graph** exec, Graph* graph, unsigned long long flags) {
    ENTER("cuGraphInstantiate");
    if (flags) violation("flags of cuGraphInstantiate that it does not know");
    *exec = *execs.insert(new Graph(*alive(graphs, graph, "a graph"))).first;
    log("cuGraphInstantiate %zu", graph->nodes.size());
    return SUCCESS;
}

EXPORT int cuGraphExecDestroy(Graph* exec) {
    ENTER("cuGraphExecDestroy");
    execs.erase(alive(execs, exec, "an executable graph"));
    delete exec;
    log("cuGraphExecDestroy");
    return SUCCESS;
}

// Of the nodes that may run the one added last goes first: as far from the order in which they were added as the graph allows, so that
// a missing dependency shows.
EXPORT int cuGraphLaunch(Graph* exec, Stream* stream) {
    ENTER("cuGraphLaunch");
    alive(execs, exec, "an executable graph");
    alive(streams, stream, "a stream");
    std::vector<bool> done(exec->nodes.size());
    for (size_t left = done.size(); left; --left) {
        for (size_t i = done.size(); i-- > 0;) {
            const Node& node = exec->nodes[i];
            if (done[i] || !std::all_of(node.after.begin(), node.after.end(), [&](size_t j) { return done[j]; })) continue;
            enqueue(stream, node.kernel);
            done[i] = true;
            break;
        }
    }
    log("cuGraphLaunch %zu", done.size());
    return SUCCESS;
}
