// The pack of a kernel that reads weights in PyTorch's order: a copy.
#pragma once

CONVT3D__DECLARE_PACK(plain_w)

#if CONVT3D__PART(0)

extern "C" int64_t convt3d__plain_w_packed(const convt3d__plan *plan)
{
    return plan->w_count * convt3d__element_size(plan->desc.dtype);
}

extern "C" convt3d_status convt3d__plain_w_pack(const convt3d__plan *plan, const void *w, void *packed, void *stream,
                                                convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    cudaError_t cause = cudaMemcpyAsync(packed, w, (size_t)convt3d__plain_w_packed(plan), cudaMemcpyDefault,
                                        (cudaStream_t)stream);
    return cause == cudaSuccess ? convt3d__ok(error) : convt3d__cuda_fail(error, cause, 0);
}

#endif
