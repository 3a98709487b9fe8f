// Weights as kernels want them. A kernel that reads PyTorch's order has the plain pack: a copy.
#pragma once

extern "C" CONVT3D__HIDDEN int64_t convt3d__plain_packed(const convt3d__plan *plan);
extern "C" CONVT3D__HIDDEN convt3d_status convt3d__plain_pack_on_device(const convt3d__plan *plan, const void *w,
                                                                        void *packed, void *stream,
                                                                        convt3d_error *error);

#if CONVT3D__PART(0)

extern "C" int64_t convt3d__plain_packed(const convt3d__plan *plan)
{
    return plan->w_count * convt3d__element_size(plan->desc.dtype);
}

extern "C" convt3d_status convt3d__plain_pack_on_device(const convt3d__plan *plan, const void *w, void *packed,
                                                        void *stream, convt3d_error *error)
{
    convt3d_status status = convt3d__check_device(plan, error);
    if (status != CONVT3D_OK) return status;
    cudaError_t cause = cudaMemcpyAsync(packed, w, (size_t)convt3d__plain_packed(plan), cudaMemcpyDefault,
                                        (cudaStream_t)stream);
    return cause == cudaSuccess ? convt3d__ok(error) : convt3d__cuda_fail(error, cause, 0);
}

#endif
