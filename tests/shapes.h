/* shapes.h - THE table of cases: named edge cases, and a seeded generator of small random ones.
 *
 * Promise: whatever reads or runs problems (reference, kernels, devices, slabs) is held to the same list. dtype,
 * layout, device and threads are set by who runs a case. What a field leaves out is 0, as for a user. Cases are
 * small (most below 2 MFLOP), because each is run for 4 types x 2 layouts x 2 kinds of data.
 */
#ifndef CONVT3D_TESTS_SHAPES_H
#define CONVT3D_TESTS_SHAPES_H

#include "../convt3d.h"
#include "oracle.h"

typedef struct shapes_case {
    const char *name;
    convt3d_desc desc;
} shapes_case;

#define CH(n, ic, oc, g) .batch = n, .in_channels = ic, .out_channels = oc, .groups = g
#define IN(d, h, w) .in_size = {d, h, w}
#define K(d, h, w) .kernel = {d, h, w}
#define S(d, h, w) .stride = {d, h, w}
#define P(d, h, w) .padding = {d, h, w}
#define OP(d, h, w) .output_padding = {d, h, w}
#define D(d, h, w) .dilation = {d, h, w}
#define OUT(d, h, w) .fixed_out_size = 1, .out_size = {d, h, w}
#define XS(n, c, d, h, w) .x_stride = {n, c, d, h, w}
#define YS(n, c, d, h, w) .y_stride = {n, c, d, h, w}

static const shapes_case shapes_table[] = {
    /* the smallest, and axes of size 1 */
    {"one_voxel",              {CH(1, 1, 1, 0), IN(1, 1, 1), K(1, 1, 1)}},
    {"one_voxel_spread",       {CH(1, 1, 1, 1), IN(1, 1, 1), K(3, 4, 5), S(2, 2, 2), D(2, 1, 3)}},
    {"pointwise",              {CH(2, 7, 5, 1), IN(3, 4, 5), K(1, 1, 1)}},
    {"pointwise_stride3",      {CH(1, 3, 2, 1), IN(3, 4, 5), K(1, 1, 1), S(3, 3, 3)}},
    {"depth_1",                {CH(2, 3, 4, 1), IN(1, 6, 7), K(1, 3, 3), S(1, 2, 2), P(0, 1, 1), OP(0, 1, 1)}},
    {"height_1",               {CH(1, 3, 4, 1), IN(6, 1, 7), K(3, 1, 3), S(2, 1, 2), P(1, 0, 1)}},
    {"width_1",                {CH(1, 3, 4, 1), IN(6, 7, 1), K(3, 3, 1), S(2, 2, 1), P(1, 1, 0)}},
    {"width_1_channels_8",     {CH(1, 8, 8, 1), IN(4, 4, 1), K(2, 2, 2), S(2, 2, 2)}},
    {"line_along_depth",       {CH(1, 2, 3, 1), IN(40, 1, 1), K(5, 1, 1), S(2, 1, 1), P(2, 0, 0)}},
    /* layers that people run */
    {"nnunet_k2s2",            {CH(2, 8, 4, 1), IN(4, 5, 6), K(2, 2, 2), S(2, 2, 2)}},
    {"nnunet_k122",            {CH(1, 12, 10, 1), IN(3, 5, 7), K(1, 2, 2), S(1, 2, 2)}},
    {"pangu_k244",             {CH(1, 6, 5, 1), IN(3, 4, 5), K(2, 4, 4), S(2, 4, 4), P(0, 1, 0)}},
    {"kernel_equals_stride_3", {CH(1, 4, 4, 2), IN(3, 3, 3), K(3, 3, 3), S(3, 3, 3)}},
    {"kernel_equals_stride_op", {CH(1, 4, 3, 1), IN(3, 4, 5), K(2, 2, 2), S(2, 2, 2), OP(1, 1, 1)}},
    {"psmnet_k3s2p1op1",       {CH(2, 8, 6, 1), IN(4, 5, 6), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"gan_k4s2p1",             {CH(1, 8, 8, 1), IN(4, 4, 4), K(4, 4, 4), S(2, 2, 2), P(1, 1, 1)}},
    {"videogpt_k4s2p3",        {CH(1, 4, 4, 1), IN(5, 6, 7), K(4, 4, 4), S(2, 2, 2), P(3, 3, 3)}},
    {"mednext_depthwise_k7",   {CH(1, 6, 6, 6), IN(4, 5, 6), K(7, 7, 7), S(2, 2, 2), P(3, 3, 3)}},
    {"kernelbench_k357",       {CH(1, 4, 3, 1), IN(6, 5, 8), K(3, 5, 7), S(1, 1, 1)}},
    {"same_size_k3s1p1",       {CH(2, 9, 11, 1), IN(5, 6, 7), K(3, 3, 3), P(1, 1, 1)}},
    /* channel counts that fill the blocks of matrix kernels, and leave a rest */
    {"wide_48",                {CH(2, 17, 48, 1), IN(2, 4, 7), K(3, 3, 3), P(1, 1, 1)}},
    {"wide_64_k3s2",           {CH(1, 20, 64, 1), IN(2, 3, 5), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"wide_128_k4s2",          {CH(1, 16, 128, 1), IN(2, 2, 3), K(4, 4, 4), S(2, 2, 2), P(1, 1, 1)}},
    {"wide_200",               {CH(1, 33, 200, 1), IN(2, 3, 3), K(3, 3, 3)}},
    {"wide_80_k2s2",           {CH(1, 40, 80, 1), IN(3, 3, 5), K(2, 2, 2), S(2, 2, 2)}},
    {"wide_32_to_16_k2s2",     {CH(2, 32, 16, 1), IN(2, 3, 8), K(2, 2, 2), S(2, 2, 2)}},
    {"wide_16_to_32_k122",     {CH(1, 16, 32, 1), IN(2, 4, 8), K(1, 2, 2), S(1, 2, 2)}},
    {"wide_32_to_5_k244",      {CH(1, 32, 5, 1), IN(2, 3, 8), K(2, 4, 4), S(2, 4, 4)}},
    {"wide_16_to_24_rows_64",  {CH(1, 16, 24, 1), IN(2, 2, 64), K(3, 3, 3), P(1, 1, 1)}},
    /* few channels a group, as many as fill such blocks, in rows of whole vectors */
    {"few_64_to_1_k4s2",       {CH(2, 64, 1, 1), IN(3, 4, 8), K(4, 4, 4), S(2, 2, 2), P(1, 1, 1)}},
    {"few_16_to_8_k3s2",       {CH(1, 16, 8, 1), IN(3, 4, 16), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"few_4_to_32_k3s2",       {CH(1, 4, 32, 1), IN(3, 4, 8), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"few_groups_k3s2",        {CH(1, 32, 32, 4), IN(2, 4, 9), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"few_groups_k357s2",      {CH(1, 16, 16, 2), IN(3, 4, 6), K(3, 5, 7), S(2, 2, 2), P(1, 2, 3), OP(1, 1, 1)}},
    {"few_depthwise_k3s2",     {CH(1, 16, 16, 16), IN(3, 4, 16), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"few_depthwise_k7s2",     {CH(1, 16, 16, 16), IN(3, 4, 8), K(7, 7, 7), S(2, 2, 2), P(3, 3, 3), OP(1, 1, 1)}},
    /* output_padding: below stride or dilation; its tail may receive taps */
    {"op_max_of_stride",       {CH(1, 3, 2, 1), IN(3, 3, 3), K(3, 3, 3), S(4, 4, 4), P(1, 1, 1), OP(3, 3, 3)}},
    {"op_beyond_stride",       {CH(1, 3, 2, 1), IN(4, 4, 4), K(3, 3, 3), S(2, 2, 2), OP(3, 3, 3), D(4, 4, 4)}},
    {"op_beyond_stride_pad",   {CH(1, 2, 2, 1), IN(4, 5, 4), K(2, 3, 2), S(1, 2, 1), P(2, 3, 4), OP(4, 2, 4),
                                D(5, 3, 5)}},
    {"op_tail_gets_taps",      {CH(1, 2, 3, 1), IN(4, 4, 4), K(3, 3, 3), S(3, 3, 3), P(2, 2, 2), OP(2, 2, 2)}},
    {"op_mixed",               {CH(1, 3, 3, 1), IN(3, 4, 5), K(3, 2, 4), S(2, 3, 1), OP(1, 2, 2), D(1, 1, 3)}},
    /* phases that no tap reaches */
    {"stride_beyond_kernel",   {CH(1, 3, 4, 1), IN(3, 4, 5), K(2, 2, 2), S(5, 4, 3)}},
    {"stride_beyond_kernel_p", {CH(1, 3, 4, 1), IN(3, 4, 5), K(2, 1, 2), S(5, 4, 7), P(3, 2, 5), OP(4, 3, 6)}},
    {"stride_2_dilation_2",    {CH(1, 4, 4, 1), IN(4, 4, 4), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), D(2, 2, 2)}},
    {"stride_4_dilation_6",    {CH(1, 3, 2, 1), IN(4, 3, 4), K(3, 3, 3), S(4, 4, 4), P(1, 2, 3), OP(1, 5, 0),
                                D(6, 6, 6)}},
    {"stride_6_dilation_4",    {CH(1, 2, 2, 1), IN(3, 3, 4), K(4, 4, 4), S(6, 6, 6), P(5, 4, 3), D(4, 4, 4)}},
    {"stride_3_dilation_2",    {CH(1, 4, 3, 1), IN(4, 5, 4), K(4, 3, 5), S(3, 3, 3), P(2, 1, 4), D(2, 2, 2)}},
    {"stride_5_dilation_3",    {CH(1, 3, 3, 1), IN(4, 3, 5), K(5, 5, 5), S(5, 5, 5), P(2, 7, 0), D(3, 3, 3)}},
    {"stride_huge",            {CH(1, 2, 2, 1), IN(2, 2, 2), K(3, 3, 3), S(17, 13, 31), P(1, 1, 1)}},
    {"stride_huge_width",      {CH(1, 1, 2, 1), IN(1, 2, 3), K(1, 1, 2), S(1, 1, 999)}},
    /* dilation */
    {"dilation_123",           {CH(1, 3, 4, 1), IN(5, 6, 7), K(3, 3, 3), D(1, 2, 3)}},
    {"dilation_huge_on_1",     {CH(1, 3, 2, 1), IN(1, 1, 1), K(3, 3, 3), S(2, 2, 2), D(9, 11, 13)}},
    {"dilation_beyond_input",  {CH(1, 2, 3, 1), IN(3, 4, 5), K(2, 3, 2), P(1, 4, 3), D(7, 8, 9)}},
    /* padding */
    {"padding_beyond_reach",   {CH(1, 3, 3, 1), IN(7, 8, 9), K(2, 2, 2), S(2, 2, 2), P(4, 5, 3)}},
    {"padding_crops_to_1",     {CH(1, 3, 3, 1), IN(5, 5, 5), K(3, 3, 3), P(3, 3, 3)}},
    {"padding_leaves_gap",     {CH(1, 2, 2, 1), IN(3, 3, 3), K(1, 1, 1), S(4, 4, 4), P(1, 2, 3), OP(3, 3, 3)}},
    {"padding_negative",       {CH(2, 3, 4, 1), IN(3, 4, 5), K(3, 3, 3), S(2, 2, 2), P(-1, -2, -5)}},
    {"padding_negative_far",   {CH(1, 2, 2, 1), IN(2, 2, 2), K(2, 2, 2), S(3, 3, 3), P(-9, 0, -20)}},
    {"padding_mixed_signs",    {CH(1, 3, 2, 1), IN(4, 5, 6), K(3, 2, 3), S(2, 1, 3), P(2, -3, 1), OP(1, 0, 2)}},
    /* fixed output sizes */
    {"out_smaller",            {CH(1, 3, 4, 1), IN(5, 6, 7), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OUT(4, 5, 6)}},
    {"out_larger",             {CH(1, 3, 4, 1), IN(3, 3, 3), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OUT(13, 9, 21)}},
    {"out_box_inside",         {CH(1, 4, 4, 2), IN(6, 6, 6), K(3, 3, 3), S(2, 2, 2), P(4, 5, 6), OUT(3, 2, 1)}},
    {"out_beyond_reach",       {CH(1, 2, 2, 1), IN(2, 3, 4), K(2, 2, 2), S(2, 2, 2), P(50, 0, -90), OUT(5, 6, 7)}},
    {"out_far_negative",       {CH(1, 2, 3, 1), IN(2, 2, 2), K(2, 2, 2), P(-7, -1, -3), OUT(6, 6, 6)}},
    {"out_size_0_depth",       {CH(1, 2, 2, 1), IN(2, 3, 4), K(2, 2, 2), OUT(0, 5, 6)}},
    {"out_size_0_all",         {CH(1, 2, 2, 1), IN(2, 3, 4), K(2, 2, 2), OUT(0, 0, 0)}},
    {"in_size_0",              {CH(2, 3, 4, 1), IN(0, 4, 4), K(3, 3, 3), S(2, 2, 2), OUT(5, 6, 7)}},
    {"in_size_0_all",          {CH(1, 2, 2, 1), IN(0, 0, 0), K(1, 2, 3), P(1, -1, 0), OUT(2, 3, 4)}},
    /* batch */
    {"batch_0",                {CH(0, 3, 4, 1), IN(3, 4, 5), K(3, 3, 3), S(2, 2, 2)}},
    {"batch_0_fixed",          {CH(0, 3, 4, 1), IN(3, 4, 5), K(3, 3, 3), OUT(9, 9, 9)}},
    {"batch_5",                {CH(5, 2, 3, 1), IN(3, 2, 4), K(2, 3, 2), S(2, 1, 2)}},
    /* channels and groups */
    {"one_in_channel",         {CH(1, 1, 9, 1), IN(4, 5, 6), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"one_out_channel",        {CH(1, 9, 1, 1), IN(4, 5, 6), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"channels_odd",           {CH(1, 5, 7, 1), IN(3, 4, 5), K(3, 2, 3), S(2, 2, 2), P(1, 0, 1)}},
    {"channels_17_to_33",      {CH(1, 17, 33, 1), IN(3, 3, 4), K(2, 2, 2), S(2, 2, 2)}},
    {"channels_64_to_3",       {CH(1, 64, 3, 1), IN(3, 3, 4), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"channels_3_to_64",       {CH(1, 3, 64, 1), IN(3, 3, 4), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"groups_2",               {CH(2, 4, 6, 2), IN(4, 4, 5), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"groups_3_uneven",        {CH(1, 6, 9, 3), IN(3, 4, 5), K(2, 3, 4), S(1, 2, 3)}},
    {"groups_wide",            {CH(1, 24, 36, 2), IN(2, 3, 4), K(3, 3, 3), S(2, 1, 2), P(1, 1, 1)}},
    {"groups_reduce",          {CH(1, 12, 4, 4), IN(3, 4, 4), K(3, 3, 3), S(2, 2, 2), OP(1, 1, 1)}},
    {"depthwise",              {CH(2, 5, 5, 5), IN(4, 5, 6), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1)}},
    {"depthwise_multiplier",   {CH(1, 4, 12, 4), IN(4, 4, 5), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1)}},
    {"depthwise_stride_1",     {CH(1, 9, 9, 9), IN(4, 5, 9), K(5, 5, 5), P(2, 2, 2)}},
    /* everything asymmetric */
    {"asymmetric",             {CH(2, 4, 6, 2), IN(3, 5, 7), K(2, 3, 5), S(3, 1, 2), P(1, 0, 3), OP(2, 1, 1),
                                D(1, 2, 3)}},
    {"asymmetric_reverse",     {CH(1, 6, 4, 2), IN(7, 5, 3), K(5, 3, 2), S(2, 1, 3), P(3, 0, 1), OP(1, 1, 2),
                                D(3, 2, 1)}},
    {"kernel_beyond_input",    {CH(1, 3, 2, 1), IN(2, 3, 2), K(7, 6, 9), S(2, 2, 2), P(3, 2, 4)}},
    {"kernel_beyond_input_s1", {CH(1, 2, 2, 1), IN(1, 2, 3), K(8, 8, 8), P(3, 4, 2)}},
    {"kernel_long_row",        {CH(1, 2, 2, 1), IN(1, 2, 20), K(1, 1, 41), S(1, 1, 2), P(0, 0, 20)}},
    /* rows about and beyond a tile's width */
    {"width_15",               {CH(1, 3, 9, 1), IN(2, 3, 15), K(3, 3, 3), P(1, 1, 1)}},
    {"width_17_s2",            {CH(1, 9, 3, 1), IN(2, 2, 17), K(2, 2, 2), S(2, 2, 2)}},
    {"row_255",                {CH(1, 2, 3, 1), IN(1, 2, 255), K(1, 1, 3), P(0, 0, 1)}},
    {"row_256",                {CH(1, 2, 3, 1), IN(1, 2, 256), K(1, 1, 3), P(0, 0, 1)}},
    {"row_257",                {CH(1, 2, 9, 1), IN(1, 2, 257), K(1, 1, 3), P(0, 0, 1)}},
    {"row_phase_257",          {CH(1, 2, 2, 1), IN(1, 1, 257), K(1, 2, 4), S(1, 2, 2), P(0, 0, 1)}},
    {"row_513_s2",             {CH(1, 2, 4, 1), IN(1, 1, 513), K(1, 1, 5), S(1, 1, 2), P(0, 0, 2), OP(0, 0, 1)}},
    {"row_700_d5",             {CH(1, 3, 2, 1), IN(1, 1, 700), K(1, 1, 4), S(1, 1, 3), P(0, 0, 7), D(1, 1, 5)}},
    {"row_300_wide_taps",      {CH(1, 1, 1, 1), IN(1, 1, 300), K(1, 1, 3), P(0, 0, 270), D(1, 1, 260)}},
    {"row_3000",               {CH(1, 1, 2, 1), IN(1, 1, 3000), K(1, 1, 3), S(1, 1, 2)}},
    /* views: x and y inside wider buffers */
    {"x_channel_slice",        {CH(2, 3, 4, 1), IN(3, 4, 5), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1),
                                XS(480, 60, 20, 5, 1)}},
    {"y_channel_slice",        {CH(2, 3, 4, 1), IN(3, 4, 5), K(2, 2, 2), S(2, 2, 2), YS(4320, 480, 80, 10, 1)}},
    {"y_channel_interleaved",  {CH(1, 3, 2, 1), IN(3, 4, 5), K(2, 2, 2), S(2, 2, 2), YS(3360, 1, 560, 70, 7)}},
    {"y_channel_step_2",       {CH(2, 2, 3, 1), IN(2, 3, 4), K(2, 2, 2), S(2, 2, 2), YS(1152, 384, 48, 8, 1)}},
    {"x_crop",                 {CH(1, 3, 4, 1), IN(3, 3, 3), K(3, 3, 3), S(2, 2, 2), XS(3000, 1000, 100, 10, 1)}},
    {"y_crop",                 {CH(1, 3, 2, 1), IN(3, 3, 3), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1),
                                YS(2000, 1000, 100, 10, 1)}},
    {"x_reversed_order",       {CH(2, 3, 4, 1), IN(3, 4, 5), K(3, 3, 3), S(1, 2, 1), XS(1, 2, 6, 18, 72)}},
    {"y_reversed_order",       {CH(2, 3, 4, 1), IN(3, 4, 5), K(1, 1, 1), YS(1, 2, 8, 24, 96)}},
    {"x_broadcast",            {CH(3, 4, 2, 1), IN(3, 4, 5), K(3, 3, 3), S(2, 2, 2), XS(0, 0, 20, 5, 1)}},
    {"x_broadcast_row",        {CH(1, 2, 2, 1), IN(3, 4, 5), K(3, 3, 3), P(1, 1, 1), XS(24, 12, 4, 1, 0)}},
    {"x_broadcast_row_wide",   {CH(1, 32, 24, 1), IN(2, 3, 8), K(2, 2, 2), S(2, 2, 2), XS(1536, 48, 24, 8, 0)}},
    {"both_strided_w2",        {CH(2, 2, 3, 1), IN(3, 2, 5), K(2, 3, 2), S(2, 1, 2), P(0, 1, 0),
                                XS(200, 100, 30, 11, 2), YS(1200, 400, 60, 30, 3)}},
    {"y_padded_rows_groups",   {CH(1, 4, 4, 2), IN(3, 3, 5), K(3, 3, 3), S(2, 2, 2), P(1, 1, 1), OP(1, 1, 1),
                                YS(2000, 480, 72, 12, 1)}},
    {"fixed_and_strided",      {CH(2, 3, 4, 1), IN(4, 4, 4), K(3, 3, 3), S(2, 2, 2), P(-1, 3, 2), OUT(7, 4, 6),
                                XS(400, 128, 25, 6, 1), YS(3000, 700, 90, 9, 1)}},
    /* an axis of one element may have any stride */
    {"any_stride_one_channel", {CH(1, 1, 1, 1), IN(3, 4, 5), K(2, 2, 2), S(2, 2, 2),
                                XS(INT64_MAX, INT64_MAX, 20, 5, 1), YS(INT64_MAX, INT64_MAX, 80, 10, 1)}},
    {"any_stride_one_row",     {CH(1, 4, 3, 1), IN(1, 1, 9), K(3, 3, 3), P(1, 1, 1),
                                XS(INT64_MAX, 9, INT64_MAX / 2, INT64_MAX, 1),
                                YS(INT64_MAX, 9, INT64_MAX, INT64_MAX / 3, 1)}},
    {"any_stride_one_column",  {CH(2, 3, 8, 1), IN(5, 6, 1), K(3, 3, 1), S(2, 2, 1), P(1, 1, 0),
                                XS(90, 30, 6, 1, INT64_MAX), YS(792, 99, 11, 1, INT64_MAX)}},
    {"any_stride_wide",        {CH(1, 32, 16, 1), IN(1, 4, 8), K(3, 3, 3), P(1, 1, 1),
                                XS(INT64_MAX, 32, INT64_MAX, 8, 1), YS(INT64_MAX, 32, INT64_MAX, 8, 1)}},
};

#undef CH
#undef IN
#undef K
#undef S
#undef P
#undef OP
#undef D
#undef OUT
#undef XS
#undef YS

enum { SHAPES_COUNT = (int)(sizeof shapes_table / sizeof shapes_table[0]) };

/* ---- random cases ---- */

typedef struct shapes_random_state {
    uint64_t seed, counter;
} shapes_random_state;

static inline int64_t shapes_draw(shapes_random_state *r, int64_t low, int64_t high)     /* low ... high */
{
    return low + oracle_below(r->seed, &r->counter, high - low + 1);
}

static inline int shapes_chance(shapes_random_state *r, int64_t one_in) { return shapes_draw(r, 1, one_in) == 1; }

static inline int64_t shapes_out_size(const convt3d_desc *d, int a)
{
    return d->fixed_out_size ? d->out_size[a]
         : (d->in_size[a] - 1) * d->stride[a] - 2 * d->padding[a] + d->dilation[a] * (d->kernel[a] - 1)
           + d->output_padding[a] + 1;
}

static inline void shapes_random_axis(shapes_random_state *r, convt3d_desc *d, int a)
{
    int64_t reach;
    d->in_size[a] = shapes_draw(r, 1, shapes_chance(r, 12) ? 40 : 7);
    d->kernel[a] = shapes_draw(r, 1, shapes_chance(r, 6) ? 7 : 4);
    d->stride[a] = shapes_chance(r, 4) ? d->kernel[a] : shapes_draw(r, 1, 4);
    d->dilation[a] = shapes_chance(r, 2) ? 1 : shapes_draw(r, 1, 6);
    reach = d->dilation[a] * (d->kernel[a] - 1);
    d->padding[a] = shapes_chance(r, 3) ? 0 : shapes_draw(r, shapes_chance(r, 4) ? -4 : 0, reach + 3);
    if (d->fixed_out_size) {
        if (shapes_chance(r, 20)) d->in_size[a] = 0;
        d->out_size[a] = shapes_chance(r, 20) ? 0 : shapes_draw(r, 1, 24);
    } else {
        int64_t most = d->stride[a] > d->dilation[a] ? d->stride[a] : d->dilation[a];
        d->output_padding[a] = shapes_chance(r, 2) ? 0 : shapes_draw(r, 0, most - 1);
    }
}

/* Strides of a view: a random order of the axes, each with some slack. */
static inline void shapes_random_view(shapes_random_state *r, const int64_t size[5], int64_t stride[5])
{
    int order[5] = {4, 3, 2, 1, 0}, i, j, t;
    int64_t step = shapes_draw(r, 1, 3);
    if (shapes_chance(r, 2))
        for (i = 4; i > 0; i--) { j = (int)shapes_draw(r, 0, i); t = order[i]; order[i] = order[j]; order[j] = t; }
    for (i = 0; i < 5; i++) {
        stride[order[i]] = step;
        step = step * (size[order[i]] > 0 ? size[order[i]] : 1) + (shapes_chance(r, 2) ? shapes_draw(r, 0, 4) : 0);
    }
}

static inline void shapes_random_channels(shapes_random_state *r, convt3d_desc *d)
{
    d->batch = shapes_chance(r, 30) ? 0 : shapes_draw(r, 1, 3);
    d->groups = shapes_chance(r, 2) ? 1 : shapes_draw(r, 2, 4);
    d->in_channels = d->groups * shapes_draw(r, 1, shapes_chance(r, 4) ? 12 : 4);
    d->out_channels = d->groups * shapes_draw(r, 1, shapes_chance(r, 4) ? 12 : 4);
    d->fixed_out_size = shapes_chance(r, 4);
}

static inline int shapes_acceptable(const convt3d_desc *d)
{
    double products = (double)(d->batch * d->in_channels * d->out_channels / d->groups);
    double outputs = (double)(d->batch * d->out_channels);
    int a;
    for (a = 0; a < 3; a++) {
        if (shapes_out_size(d, a) < (d->fixed_out_size ? 0 : 1)) return 0;
        products *= (double)(d->in_size[a] * d->kernel[a]);
        outputs *= (double)shapes_out_size(d, a);
    }
    return products < 600e3 && outputs < 60e3;
}

/* A valid small problem, the same for the same seed on every machine. */
static inline convt3d_desc shapes_random(uint64_t seed)
{
    shapes_random_state r = {0, 0};
    convt3d_desc d;
    int64_t in[5], out[5];
    int a;
    r.seed = seed ^ 0xC0FFEE;
    do {
        memset(&d, 0, sizeof d);
        shapes_random_channels(&r, &d);
        for (a = 0; a < 3; a++) shapes_random_axis(&r, &d, a);
    } while (!shapes_acceptable(&d));
    in[0] = out[0] = d.batch; in[1] = d.in_channels; out[1] = d.out_channels;
    for (a = 0; a < 3; a++) { in[2 + a] = d.in_size[a]; out[2 + a] = shapes_out_size(&d, a); }
    if (shapes_chance(&r, 4)) shapes_random_view(&r, in, d.x_stride);
    if (shapes_chance(&r, 4)) shapes_random_view(&r, out, d.y_stride);
    return d;
}

#endif
