// What the table at the end of convt3d_cuda.cu knows of a kernel: functions named convt3d__KERNEL_refuses() and so on,
// as convt3d__backend of convt3d.h describes them. Here they are declared; here, too, is what many of them do alike.
#pragma once

#define CONVT3D__DECLARE_KERNEL(kernel)                                                                                \
    extern "C" {                                                                                                       \
    CONVT3D__HIDDEN int32_t convt3d__##kernel##_refuses(convt3d__plan *plan, char why[96]);                            \
    CONVT3D__HIDDEN double convt3d__##kernel##_cost(const convt3d__plan *plan);                                        \
    CONVT3D__HIDDEN int64_t convt3d__##kernel##_workspace(const convt3d__plan *plan);                                  \
    CONVT3D__HIDDEN convt3d_status convt3d__##kernel##_run(const convt3d__plan *plan, const convt3d_io *io,            \
                                                           convt3d_error *error);                                      \
    CONVT3D__HIDDEN convt3d_status convt3d__##kernel##_ready(const convt3d__plan *plan, convt3d_error *error);         \
    }
#define CONVT3D__DECLARE_PACK(kernel)                                                                                  \
    extern "C" {                                                                                                       \
    CONVT3D__HIDDEN int64_t convt3d__##kernel##_packed(const convt3d__plan *plan);                                     \
    CONVT3D__HIDDEN convt3d_status convt3d__##kernel##_pack(const convt3d__plan *plan, const void *w, void *packed,    \
                                                            void *stream, convt3d_error *error);                       \
    }

// Says why a kernel refuses; 0 where there is no reason.
static inline int32_t convt3d__refuse(char why[96], const char *reason)
{
    convt3d__text text = {why, 96, 0};
    convt3d__put(&text, reason);
    return *reason != 0;
}

namespace convt3d_cuda {

// A tiling that refuses() chose, kept in plan->state for what follows.
template <class Shape> void keep_shape(convt3d__plan *plan, const Shape &s)
{
    static_assert(sizeof s <= sizeof plan->state, "a tiling is kept in plan->state");
    memcpy(plan->state, &s, sizeof s);
}

template <class Shape> Shape kept_shape(const convt3d__plan *plan)
{
    Shape s;
    memcpy(&s, plan->state, sizeof s);
    return s;
}

}
