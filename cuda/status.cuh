// CUDA's errors as convt3d statuses, the card a plan is for, and launching.
//
// A call that succeeds leaves the error state that it found; one that fails reports and clears what it raised, except
// for faults, which CUDA itself keeps until the context ends.
#pragma once

extern "C" CONVT3D__HIDDEN convt3d_status convt3d__cuda_fail(convt3d_error *error, cudaError_t cause, int64_t bytes);

// Launches kernel(arguments...) and reports what the launch itself says. early: it may start while what was launched
// before it ends, but for what it waits for itself (griddepcontrol.wait).
template <class... Formal, class... Actual>
convt3d_status convt3d__launch_early(convt3d_error *error, bool early, void (*kernel)(Formal...), dim3 grid,
                                     dim3 block, size_t shared, void *stream, const Actual &...actual)
{
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = (cudaStream_t)stream;
    config.attrs = &attribute;
    config.numAttrs = early;
    cudaError_t cause = cudaLaunchKernelEx(&config, kernel, Formal(actual)...);
    return cause == cudaSuccess ? convt3d__ok(error) : convt3d__cuda_fail(error, cause, 0);
}

template <class... Formal, class... Actual>
convt3d_status convt3d__launch(convt3d_error *error, void (*kernel)(Formal...), dim3 grid, dim3 block, size_t shared,
                               void *stream, const Actual &...actual)
{
    return convt3d__launch_early(error, false, kernel, grid, block, shared, stream, actual...);
}

namespace convt3d_cuda {

// A row of launches: each but the first may start early.
struct Launches {
    void *stream;
    convt3d_error *error;
    int count;
    template <class... Formal, class... Actual>
    convt3d_status operator()(void (*kernel)(Formal...), int64_t blocks, int threads, int shared,
                              const Actual &...actual)
    {
        return convt3d__launch_early(error, count++ > 0, kernel, dim3((unsigned)blocks), dim3((unsigned)threads),
                                     (size_t)shared, stream, actual...);
    }
};

}

// Makes sure, while planning, that the card has code for the kernel and that it is loaded: running must not wait.
template <class... Formal>
convt3d_status convt3d__load_kernel(convt3d_error *error, const convt3d__plan *plan, void (*kernel)(Formal...),
                                    size_t shared)
{
    cudaFuncAttributes attributes;
    cudaError_t cause;
    if (plan->cuda_device < 0) return CONVT3D_OK;
    cause = cudaFuncGetAttributes(&attributes, (const void *)kernel);
    if (cause == cudaSuccess && shared > 48 * 1024)
        cause = cudaFuncSetAttribute((const void *)kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
    return cause == cudaSuccess ? CONVT3D_OK : convt3d__cuda_fail(error, cause, plan->cuda_arch);
}

// A plan runs on the device it was made on.
static inline convt3d_status convt3d__check_device(const convt3d__plan *plan, convt3d_error *error)
{
    int current;
    if (plan->cuda_device < 0)
        return convt3d__fail(error, CONVT3D_CUDA_PLANNED_FOR_ARCH, "cuda_arch", -1, plan->cuda_arch, 0, "");
    cudaError_t cause = cudaGetDevice(&current);
    if (cause != cudaSuccess) return convt3d__cuda_fail(error, cause, 0);
    if (current != plan->cuda_device)
        return convt3d__fail(error, CONVT3D_CUDA_WRONG_DEVICE, "device", -1, current, plan->cuda_device, "");
    return CONVT3D_OK;
}

#if CONVT3D__PART(0)

static void convt3d__join(char *text, size_t room, const char *first, const char *second)
{
    convt3d__text joined = {text, room, 0};
    convt3d__put(&joined, first);
    convt3d__put(&joined, second);
}

// The context is lost: nothing that the device was to write can be relied on.
static int convt3d__is_fault(cudaError_t cause)
{
    return (cause >= cudaErrorIllegalAddress && cause <= cudaErrorLaunchTimeout) || cause == cudaErrorAssert ||
           (cause >= cudaErrorHardwareStackError && cause <= cudaErrorLaunchFailure) ||
           cause == cudaErrorECCUncorrectable || cause == cudaErrorContained || cause == cudaErrorUnknown;
}

// bytes: what an allocation asked for, or the card's architecture when a kernel was looked for.
extern "C" convt3d_status convt3d__cuda_fail(convt3d_error *error, cudaError_t cause, int64_t bytes)
{
    char detail[128];
    int driver = 0, runtime = 0;
    cudaGetLastError();
    convt3d__join(detail, sizeof detail, cudaGetErrorName(cause), "");
    switch (cause) {
    case cudaErrorInsufficientDriver:
        cudaDriverGetVersion(&driver);
        cudaRuntimeGetVersion(&runtime);
        if (driver > 0)
            return convt3d__fail(error, CONVT3D_CUDA_DRIVER_TOO_OLD, "device", -1, driver, runtime, "");
        return convt3d__fail(error, CONVT3D_CUDA_NO_DRIVER, "device", -1, 0, 0, "");
    case cudaErrorStubLibrary:
    case cudaErrorSystemNotReady:
        return convt3d__fail(error, CONVT3D_CUDA_NO_DRIVER, "device", -1, 0, 0, "");
    case cudaErrorNoDevice:
        return convt3d__fail(error, CONVT3D_CUDA_NO_DEVICE, "device", -1, 0, 0, "");
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorUnsupportedPtxVersion:
        return convt3d__fail(error, CONVT3D_CUDA_NO_IMAGE, "device", -1, bytes, 0, detail);
    case cudaErrorMemoryAllocation:
        return convt3d__fail(error, CONVT3D_CUDA_OUT_OF_MEMORY, "device", -1, 0, bytes, "");
    case cudaErrorStreamCaptureUnsupported:
    case cudaErrorStreamCaptureImplicit:
        return convt3d__fail(error, CONVT3D_CUDA_CAPTURING, "stream", -1, 0, 0, "");
    default:
        return convt3d__fail(error, convt3d__is_fault(cause) ? CONVT3D_CUDA_FAULT : CONVT3D_CUDA_FAILED, "device", -1,
                             (int64_t)cause, 0, detail);
    }
}

extern "C" convt3d_status convt3d__cuda_count(int32_t *count, convt3d_error *error)
{
    int found = 0;
    cudaError_t cause = cudaGetDeviceCount(&found);
    if (cause != cudaSuccess) return convt3d__cuda_fail(error, cause, 0);
    *count = found;
    return convt3d__ok(error);
}

// The card to plan for: desc.cuda_arch, or the current device.
extern "C" convt3d_status convt3d__cuda_find(convt3d__plan *plan, convt3d_error *error)
{
    int device = 0, major = 0, minor = 0, multiprocessors = 0;
    cudaError_t cause;
    plan->cuda_device = -1;
    plan->cuda_arch = plan->desc.cuda_arch;
    plan->multiprocessors = plan->desc.cuda_arch >= 90 ? 132 : 108;
    if (plan->desc.cuda_arch > 0) return CONVT3D_OK;
    cause = cudaGetDevice(&device);
    if (cause == cudaSuccess) cause = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (cause == cudaSuccess) cause = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    if (cause == cudaSuccess)
        cause = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
    if (cause != cudaSuccess) return convt3d__cuda_fail(error, cause, 0);
    plan->cuda_device = device;
    plan->cuda_arch = 10 * major + minor;
    plan->multiprocessors = multiprocessors;
    return CONVT3D_OK;
}

extern "C" void convt3d__cuda_describe(const convt3d__plan *plan, char name[256])
{
    cudaDeviceProp card;
    convt3d__text text = {name, 256, 0};
    if (plan->cuda_device >= 0 && cudaGetDeviceProperties(&card, plan->cuda_device) == cudaSuccess) {
        convt3d__put(&text, card.name);
        convt3d__put(&text, ", ");
        convt3d__put_int(&text, (int64_t)(card.totalGlobalMem >> 20));
        convt3d__put(&text, " MiB, ");
    } else convt3d__put(&text, "none, planned for ");
    convt3d__put(&text, "sm_");
    convt3d__put_int(&text, plan->cuda_arch);
    convt3d__put(&text, ", ");
    convt3d__put_int(&text, plan->multiprocessors);
    convt3d__put(&text, " multiprocessors");
}

#endif
