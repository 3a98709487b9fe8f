// What happens to an accumulator between the last product and the one rounding: the bias. Every kernel ends here.
#pragma once

namespace convt3d_cuda {

template <class T> struct Epilogue {
    typedef typename Number<T>::Accumulator Accumulator;
    const T *bias;      // [out_channels] or null
    __device__ __forceinline__ T finish(Accumulator sum, int64_t oc) const
    {
        return Number<T>::round(bias ? sum + Number<T>::widen(bias[oc]) : sum);
    }
};

}
