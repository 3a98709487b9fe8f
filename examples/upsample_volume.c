/* Doubles a medical volume (NIfTI) on every axis with one transposed convolution: trilinear interpolation.
 *
 *     upsample_volume [--check] IN.nii[.gz] OUT.nii[.gz] [OUT.png]
 *
 * By hand, in the project's root:
 *     cc -O2 -fopenmp -I. -I/usr/include/nifti examples/upsample_volume.c convt3d.c -lniftiio -lznz -lz -lm
 *
 * THE WEIGHTS   Kernel 4, stride 2, per axis 1/4 3/4 3/4 1/4: each new voxel is 3/4 of the old voxel that it lies in
 *               and 1/4 of the neighbour on its side, which is linear interpolation at its centre.
 * THE BORDER    Each volume is first extended by one repeated voxel per side, and padding = 3 with a fixed output size
 *               crops to exactly the new voxels. Without it the border would darken; dividing by the sum of the weights
 *               that hit the volume would give the same numbers, at the price of a second pass and a rounding.
 * THE GEOMETRY  The outer faces of the volume stay where they are: voxels halve, and new voxel 0 has its centre at
 *               -1/4 of an old voxel. qform and sform are both corrected. Slice timing is cleared: it names old slices.
 * THE VALUES    The datatype stays. The weights sum to one, so scl_slope and scl_inter hold as they are and no value
 *               leaves the range of its neighbours. Integers are computed exactly and rounded once, ties to even: an
 *               error of half a stored step at most. Volumes of labels are refused: the mean of two labels is no label.
 *               (libnifti itself reads NaN and infinity as 0.)
 * --check       computes every voxel a second time, directly from the coordinates and in double, compares it with the
 *               file as written, within the bound of convt3d's numeric contract, and prints the worst voxel.
 *
 * Exit: 0 done, 1 the check failed, 2 anything else, with one line that says why. No file is left half written. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nifti1_io.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

#include "convt3d.h"

enum { DONE = 0, CHECK_FAILED = 1, FAILED = 2 };

static int fail(const char *name, const char *why) {
    fprintf(stderr, "upsample_volume: %s: %s\n", name, why);
    return FAILED;
}

static void *allocate(double count, double bytes_each) {
    return count * bytes_each < (double)(SIZE_MAX / 2) ? malloc((size_t)count * (size_t)bytes_each) : NULL;
}

/* ---- stored values ---------------------------------------------------------------------------------------------- */

/* The type to compute in: with these weights, sums of 16-bit integers are exact in f32, of 32-bit integers in f64. */
static int compute_type(int datatype) {
    switch (datatype) {
    case DT_UINT8: case DT_INT8: case DT_INT16: case DT_UINT16: case DT_FLOAT32: return CONVT3D_F32;
    case DT_INT32: case DT_UINT32: case DT_FLOAT64:                              return CONVT3D_F64;
    default:                                                                     return -1;
    }
}

static double load(const void *data, int datatype, size_t i) {
    switch (datatype) {
    case DT_UINT8:   return ((const uint8_t *)data)[i];
    case DT_INT8:    return ((const int8_t *)data)[i];
    case DT_UINT16:  return ((const uint16_t *)data)[i];
    case DT_INT16:   return ((const int16_t *)data)[i];
    case DT_UINT32:  return ((const uint32_t *)data)[i];
    case DT_INT32:   return ((const int32_t *)data)[i];
    case DT_FLOAT32: return (double)((const float *)data)[i];
    default:         return ((const double *)data)[i];
    }
}

static void store(void *data, int datatype, size_t i, double value) {
    switch (datatype) {
    case DT_UINT8:   ((uint8_t *)data)[i] = (uint8_t)nearbyint(value); break;
    case DT_INT8:    ((int8_t *)data)[i] = (int8_t)nearbyint(value); break;
    case DT_UINT16:  ((uint16_t *)data)[i] = (uint16_t)nearbyint(value); break;
    case DT_INT16:   ((int16_t *)data)[i] = (int16_t)nearbyint(value); break;
    case DT_UINT32:  ((uint32_t *)data)[i] = (uint32_t)nearbyint(value); break;
    case DT_INT32:   ((int32_t *)data)[i] = (int32_t)nearbyint(value); break;
    case DT_FLOAT32: ((float *)data)[i] = (float)value; break;
    default:         ((double *)data)[i] = value; break;
    }
}

static double load_real(const void *data, int type, size_t i) {
    return type == CONVT3D_F32 ? (double)((const float *)data)[i] : ((const double *)data)[i];
}

static void store_real(void *data, int type, size_t i, double value) {
    if (type == CONVT3D_F32) ((float *)data)[i] = (float)value;
    else ((double *)data)[i] = value;
}

static int clamp(int i, int n) { return i < 0 ? 0 : i >= n ? n - 1 : i; }

static size_t voxel(const nifti_image *v, int t, int z, int y, int x) {
    return (((size_t)t * (size_t)v->nz + (size_t)z) * (size_t)v->ny + (size_t)y) * (size_t)v->nx + (size_t)x;
}

/* ---- geometry --------------------------------------------------------------------------------------------------- */

/* The transform of the doubled grid, from old = new/2 - 1/4. */
static mat44 halve_voxels(mat44 m) {
    for (int r = 0; r < 3; r++) {
        m.m[r][3] -= (m.m[r][0] + m.m[r][1] + m.m[r][2]) / 4;
        for (int c = 0; c < 3; c++) m.m[r][c] /= 2;
    }
    return m;
}

static nifti_image *doubled_header(const nifti_image *in) {
    nifti_image *out = nifti_copy_nim_info(in);
    if (!out) return NULL;
    out->nx = out->dim[1] = 2 * in->nx;
    out->ny = out->dim[2] = 2 * in->ny;
    out->nz = out->dim[3] = 2 * in->nz;
    out->nvox = in->nvox * 8;
    out->dx = out->pixdim[1] = in->dx / 2;
    out->dy = out->pixdim[2] = in->dy / 2;
    out->dz = out->pixdim[3] = in->dz / 2;
    out->qto_xyz = halve_voxels(in->qto_xyz);
    out->sto_xyz = halve_voxels(in->sto_xyz);
    out->qoffset_x = out->qto_xyz.m[0][3];
    out->qoffset_y = out->qto_xyz.m[1][3];
    out->qoffset_z = out->qto_xyz.m[2][3];
    out->qto_ijk = nifti_mat44_inverse(out->qto_xyz);
    if (in->sform_code > 0) out->sto_ijk = nifti_mat44_inverse(out->sto_xyz);
    out->slice_code = out->slice_start = out->slice_end = 0;
    out->slice_duration = 0;
    out->nifti_type = NIFTI_FTYPE_NIFTI1_1;
    return out;
}

/* ---- the transposed convolution --------------------------------------------------------------------------------- */

static void *replicate_border(const nifti_image *in, int type) {
    size_t to = 0;
    void *x = allocate((double)in->nt * (in->nz + 2.0) * (in->ny + 2.0) * (in->nx + 2.0), type == CONVT3D_F32 ? 4 : 8);
    for (int t = 0; x && t < in->nt; t++)
        for (int z = -1; z <= in->nz; z++)
            for (int y = -1; y <= in->ny; y++) {
                size_t row = voxel(in, t, clamp(z, in->nz), clamp(y, in->ny), 0);
                for (int i = -1; i <= in->nx; i++)
                    store_real(x, type, to++, load(in->data, in->datatype, row + (size_t)clamp(i, in->nx)));
            }
    return x;
}

static int upsample(const nifti_image *in, nifti_image *out, const char *name) {
    static const double tap[4] = {0.25, 0.75, 0.75, 0.25};
    double w[64];                                   /* room for 64 of either type */
    int type = compute_type(in->datatype), status = FAILED;
    void *x = replicate_border(in, type);
    void *y = allocate((double)out->nvox, type == CONVT3D_F32 ? 4 : 8);
    convt3d_desc desc = {0};
    convt3d_io io = {0};
    convt3d_error error;

    out->data = allocate((double)out->nvox, (double)out->nbyper);
    if (!x || !y || !out->data) { fail(name, "not enough memory"); goto done; }
    for (size_t k = 0; k < 64; k++) store_real(w, type, k, tap[k / 16] * tap[k / 4 % 4] * tap[k % 4]);

    desc.batch = in->nt;
    desc.in_channels = desc.out_channels = 1;
    desc.in_size[0] = in->nz + 2;  desc.out_size[0] = out->nz;
    desc.in_size[1] = in->ny + 2;  desc.out_size[1] = out->ny;
    desc.in_size[2] = in->nx + 2;  desc.out_size[2] = out->nx;
    for (int a = 0; a < 3; a++) { desc.kernel[a] = 4;  desc.stride[a] = 2;  desc.padding[a] = 3; }
    desc.fixed_out_size = 1;
    desc.dtype = type;
    io.x = x;  io.w = w;  io.y = y;
    if (convt3d(&desc, &io, &error) != CONVT3D_OK) { fail(name, error.text); goto done; }

    for (size_t i = 0; i < out->nvox; i++) store(out->data, out->datatype, i, load_real(y, type, i));
    status = DONE;
done:
    free(x);
    free(y);
    return status;
}

/* ---- the second path -------------------------------------------------------------------------------------------- */

/* The value at the centre of a new voxel, interpolated from the coordinates; *sum gets the magnitudes that entered. */
static double interpolate(const nifti_image *in, int t, const int at[3], double *sum) {
    const int size[3] = {in->nz, in->ny, in->nx};
    double weight[3][2], value = 0;
    int index[3][2];
    for (int a = 0; a < 3; a++) {
        double position = (at[a] + 0.5) / 2 - 0.5, below = floor(position);
        weight[a][1] = position - below;
        weight[a][0] = 1 - weight[a][1];
        index[a][0] = clamp((int)below, size[a]);
        index[a][1] = clamp((int)below + 1, size[a]);
    }
    *sum = 0;
    for (int corner = 0; corner < 8; corner++) {
        int a = corner >> 2, b = corner >> 1 & 1, c = corner & 1;
        double product = weight[0][a] * weight[1][b] * weight[2][c]
                       * load(in->data, in->datatype, voxel(in, t, index[0][a], index[1][b], index[2][c]));
        value += product;
        *sum += fabs(product);
    }
    return value;
}

static int check_values(const nifti_image *in, const nifti_image *out) {
    int is_integer = nifti_is_inttype(out->datatype), single = out->datatype == DT_FLOAT32;
    double u = ldexp(1, single ? -24 : -53), eta = ldexp(1, single ? -149 : -1074);
    double worst = -1, worst_error = 0, worst_allowed = 0, worst_want = 0, worst_got = 0;
    int worst_at[4] = {0, 0, 0, 0};
    size_t wrong = 0;
    for (int t = 0; t < out->nt; t++)
        for (int z = 0; z < out->nz; z++)
            for (int y = 0; y < out->ny; y++)
                for (int x = 0; x < out->nx; x++) {
                    const int at[3] = {z, y, x};
                    double sum, want = interpolate(in, t, at, &sum);
                    double got = load(out->data, out->datatype, voxel(out, t, z, y, x));
                    double error, share, allowed = (8 + 4) * 2 * u * sum + 9 * eta + fmax(u * fabs(want), eta / 2);
                    if (!single) allowed *= 2;          /* for float64, this path rounds as well */
                    if (is_integer) { want = nearbyint(want);  allowed = 0; }
                    error = fabs(got - want);
                    share = allowed > 0 ? error / allowed : error;
                    if (!(error <= allowed)) wrong++;
                    if (!(share <= worst) || (share == worst && fabs(want) > fabs(worst_want))) {
                        worst = share;  worst_error = error;  worst_allowed = allowed;
                        worst_want = want;  worst_got = got;
                        worst_at[0] = t;  worst_at[1] = z;  worst_at[2] = y;  worst_at[3] = x;
                    }
                }
    printf("check   %zu voxels against direct interpolation: %s, %zu outside the bound\n"
           "        worst voxel t %d z %d y %d x %d: %.9g, directly %.9g, error %.3g, allowed %.3g\n",
           out->nvox, wrong ? "FAIL" : "pass", wrong, worst_at[0], worst_at[1], worst_at[2], worst_at[3],
           worst_got, worst_want, worst_error, worst_allowed);
    return wrong ? CHECK_FAILED : DONE;
}

/* Largest move, in mm, of the outer corners of the volume between two transforms; *extent is what it is judged by. */
static double corner_move(const nifti_image *in, mat44 before, const nifti_image *out, mat44 after, double *extent) {
    double most = 0;
    *extent = 0;
    for (int corner = 0; corner < 8; corner++)
        for (int r = 0; r < 3; r++) {
            const int far_end[3] = {corner & 1, corner >> 1 & 1, corner >> 2};
            const int n_in[3] = {in->nx, in->ny, in->nz}, n_out[3] = {out->nx, out->ny, out->nz};
            double a = (double)before.m[r][3], b = (double)after.m[r][3];
            for (int c = 0; c < 3; c++) {
                a += (double)before.m[r][c] * (far_end[c] * n_in[c] - 0.5);
                b += (double)after.m[r][c] * (far_end[c] * n_out[c] - 0.5);
            }
            most = fmax(most, fabs(a - b));
            *extent = fmax(*extent, fabs(a));
        }
    return most;
}

static int check_geometry(const nifti_image *in, const nifti_image *out) {
    double extent, move = corner_move(in, in->qto_xyz, out, out->qto_xyz, &extent);
    int ok = in->qform_code <= 0 || move <= 1e-5 * extent;          /* float32 matrices */
    if (in->qform_code <= 0) move = 0;
    if (in->sform_code > 0) {
        double sform_move = corner_move(in, in->sto_xyz, out, out->sto_xyz, &extent);
        ok = ok && sform_move <= 1e-5 * extent;
        move = fmax(move, sform_move);
    }
    ok = ok && in->qform_code == out->qform_code && in->sform_code == out->sform_code;
    printf("        outer corners of the volume move by %.3g mm at most: %s\n", move, ok ? "pass" : "FAIL");
    return ok ? DONE : CHECK_FAILED;
}

/* ---- files ------------------------------------------------------------------------------------------------------ */

static int ends_with(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

/* "brain.nii.gz" -> "brain.part.nii.gz": libnifti goes by the ending. */
static char *part_name(const char *name, const char *end) {
    size_t stem = strlen(name) - strlen(end);
    char *part = malloc(strlen(name) + 6);
    if (part) sprintf(part, "%.*s.part%s", (int)stem, name, end);
    return part;
}

static int finish(const char *part, const char *name, int good, const char *why) {
    if (good && rename(part, name) == 0) return DONE;
    remove(part);
    return fail(name, good ? "cannot be replaced" : why);
}

/* Writes beside the wanted name, reads that back, and renames it once it holds what it should.
 * On success *written is the volume as the file has it. */
static int write_volume(nifti_image *out, const char *name, nifti_image **written) {
    char *part = part_name(name, ends_with(name, ".gz") ? ".nii.gz" : ".nii");
    FILE *probe = part ? fopen(part, "wb") : NULL;
    int good = probe && fclose(probe) == 0 && nifti_set_filenames(out, part, 0, 1) == 0;
    *written = NULL;
    if (!good) { free(part);  return fail(name, "cannot be written"); }
    nifti_image_write(out);
    *written = nifti_image_read(part, 1);
    good = *written && (*written)->data && (*written)->nvox == out->nvox && (*written)->datatype == out->datatype
        && memcmp((*written)->data, out->data, out->nvox * (size_t)out->nbyper) == 0;
    good = finish(part, name, good, "cannot be written, or not read back as it was written") == DONE;
    free(part);
    return good ? DONE : FAILED;
}

/* libnifti fills what is missing from a file that was cut short with zeros; here that is an error. */
static int is_complete(const nifti_image *in) {
    static char buffer[1 << 16];
    size_t wanted = (size_t)in->iname_offset + in->nvox * (size_t)in->nbyper, total = 0, got;
    znzFile file = znzopen(in->iname, "rb", nifti_is_gzfile(in->iname));
    if (znz_isnull(file)) return 0;
    while ((got = znzread(buffer, 1, sizeof buffer, file)) > 0 && got <= sizeof buffer) total += got;
    return znzclose(file) == 0 && got == 0 && total >= wanted;
}

static int read_volume(const char *name, nifti_image **volume) {
    nifti_image *in = *volume = is_nifti_file(name) > 0 ? nifti_image_read(name, 0) : NULL;
    char why[128];
    if (!in) return fail(name, "is not a NIfTI file that can be read");
    if (in->nz < 2 || in->nu > 1 || in->nv > 1 || in->nw > 1)
        return fail(name, "only volumes of 3 dimensions, or 4 with time, are supported");
    if (in->nx > 16383 || in->ny > 16383 || in->nz > 16383)
        return fail(name, "too large: a NIfTI-1 file holds at most 32767 voxels on an axis");
    if (in->intent_code == NIFTI_INTENT_LABEL || in->intent_code == NIFTI_INTENT_NEURONAME)
        return fail(name, "holds labels, and interpolated labels mean nothing");
    if (compute_type(in->datatype) < 0) {
        snprintf(why, sizeof why, "datatype %s is not supported: integers up to 32 bits, float32 and float64 are",
                 nifti_datatype_string(in->datatype));
        return fail(name, why);
    }
    if (!is_complete(in)) return fail(name, "is cut short or damaged");
    if (nifti_image_load(in) != 0 || !in->data) return fail(name, "cannot be read, or is larger than the memory");
    return DONE;
}

/* ---- the picture ------------------------------------------------------------------------------------------------ */

/* How an axial slice lies in the file: axis[0] runs left to right, axis[1] back to front, axis[2] across the slices. */
typedef struct { int axis[3], flip[3]; } view;

static view axial_view(const nifti_image *v) {
    view seen = {{0, 1, 2}, {0, 0, 0}};
    int code[3], used = 0;
    nifti_mat44_to_orientation(v->sform_code > 0 ? v->sto_xyz : v->qto_xyz, &code[0], &code[1], &code[2]);
    for (int a = 0; a < 3; a++) if (code[a] >= 1 && code[a] <= 6) used |= 1 << (code[a] - 1) / 2;
    for (int a = 0; used == 7 && a < 3; a++) {
        seen.axis[(code[a] - 1) / 2] = a;
        seen.flip[(code[a] - 1) / 2] = (code[a] - 1) % 2;
    }
    return seen;
}

static double voxel_size(const nifti_image *v, int axis) {
    double size = fabs((double)v->pixdim[1 + axis]);
    return size > 0 && size < HUGE_VAL ? size : 1;
}

/* The value, slope and intercept left out, that lies right, up (in mm, from the corner) in one slice of volume 0. */
static double slice_value(const nifti_image *v, view seen, int slice, double right, double up) {
    const int size[3] = {v->nx, v->ny, v->nz};
    const double mm[2] = {right, up};
    int at[3];
    at[seen.axis[2]] = slice;
    for (int k = 0; k < 2; k++) {
        int a = seen.axis[k], i = clamp((int)(mm[k] / voxel_size(v, a)), size[a]);
        at[a] = seen.flip[k] ? size[a] - 1 - i : i;
    }
    return load(v->data, v->datatype, voxel(v, 0, at[2], at[1], at[0])) * (v->scl_slope < 0 ? -1 : 1);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct { const nifti_image *volume; int slice, left, top, width, height; double pixel; } panel;

/* Three panels: a slice before, one pixel a voxel; the same at twice the scale; the slice after, one pixel a voxel. */
static int write_picture(const nifti_image *in, const nifti_image *out, const char *name) {
    enum { GAP = 8, PAPER = 48 };
    const int size[3] = {in->nx, in->ny, in->nz};
    view seen = axial_view(in);
    int u = seen.axis[0], v = seen.axis[1], slice = size[seen.axis[2]] / 2;
    double width_mm = size[u] * voxel_size(in, u), height_mm = size[v] * voxel_size(in, v);
    double pixel = fmax(fmin(voxel_size(in, u), voxel_size(in, v)) / 2, fmax(width_mm, height_mm) / 4096);
    int width = (int)ceil(width_mm / pixel - 1e-6), height = (int)ceil(height_mm / pixel - 1e-6);
    int small_width = (width + 1) / 2, small_height = (height + 1) / 2, total = small_width + 2 * width + 4 * GAP;
    panel panels[3] = {
        {in, slice, GAP, GAP + (height - small_height) / 2, small_width, small_height, 2 * pixel},
        {in, slice, 2 * GAP + small_width, GAP, width, height, pixel},
        {out, 2 * slice, 3 * GAP + small_width + width, GAP, width, height, pixel}};
    size_t samples = (size_t)small_width * (size_t)small_height, n = 0;
    unsigned char *image = allocate(total, height + 2 * GAP);
    double *sorted = allocate((double)samples, sizeof(double)), low, high;
    char *part = part_name(name, ".png");
    int status = FAILED;
    if (!image || !sorted || !part) { fail(name, "not enough memory"); goto done; }

    /* Black is the slice's least value, white the 99.5th of its 100 percentiles: one bright vessel darkens nothing. */
    for (int py = 0; py < small_height; py++)
        for (int px = 0; px < small_width; px++)
            sorted[n++] = slice_value(in, seen, slice, (px + 0.5) * 2 * pixel, (py + 0.5) * 2 * pixel);
    qsort(sorted, samples, sizeof *sorted, ascending);
    low = sorted[0];
    high = sorted[(size_t)(0.995 * (double)(samples - 1))];
    if (!(high > low)) high = sorted[samples - 1] > low ? sorted[samples - 1] : low + 1;

    memset(image, PAPER, (size_t)total * (size_t)(height + 2 * GAP));
    for (const panel *p = panels; p < panels + 3; p++)
        for (int py = 0; py < p->height; py++)
            for (int px = 0; px < p->width; px++) {
                double right = (px + 0.5) * p->pixel, up = fmax(height_mm - (py + 0.5) * p->pixel, 0);
                double grey = (slice_value(p->volume, seen, p->slice, right, up) - low) / (high - low);
                image[(size_t)(p->top + py) * (size_t)total + (size_t)(p->left + px)] =
                    (unsigned char)(255 * fmin(fmax(grey, 0), 1) + 0.5);
            }
    status = finish(part, name, stbi_write_png(part, total, height + 2 * GAP, 1, image, total), "cannot be written");
done:
    free(image);
    free(sorted);
    free(part);
    return status;
}

/* ---- the program ------------------------------------------------------------------------------------------------ */

static void describe(const char *what, const char *name, const nifti_image *v) {
    printf("%s  %s\n        %d x %d x %d voxels", what, name, v->nx, v->ny, v->nz);
    if (v->nt > 1) printf(", %d times", v->nt);
    printf(", %g x %g x %g %s, %s\n", (double)v->dx, (double)v->dy, (double)v->dz,
           v->xyz_units ? nifti_units_string(v->xyz_units) : "mm", nifti_datatype_string(v->datatype));
}

int main(int argc, char **argv) {
    int check = argc > 1 && strcmp(argv[1], "--check") == 0, status;
    const char *const *name = (const char *const *)argv + 1 + check;
    int names = argc - 1 - check;
    nifti_image *in = NULL, *out = NULL, *written = NULL;

    if (names < 2 || names > 3 || !(ends_with(name[1], ".nii") || ends_with(name[1], ".nii.gz"))
        || (names == 3 && !ends_with(name[2], ".png"))) {
        fprintf(stderr, "usage: upsample_volume [--check] IN.nii[.gz] OUT.nii[.gz] [OUT.png]\n");
        return FAILED;
    }
    nifti_set_debug_level(0);
    status = read_volume(name[0], &in);
    if (status == DONE && !(out = doubled_header(in))) status = fail(name[0], "not enough memory");
    if (status == DONE) status = upsample(in, out, name[0]);
    if (status == DONE) status = write_volume(out, name[1], &written);
    if (status == DONE) {
        describe("before", name[0], in);
        describe("after ", name[1], written);
        if (check) status = check_values(in, written) | check_geometry(in, written);
    }
    if (status == DONE && names == 3) status = write_picture(in, written, name[2]);
    if (status == DONE && names == 3)
        printf("picture %s\n        an axial slice: before, one pixel a voxel; before, twice as large; after, one pixel"
               " a voxel\n", name[2]);
    if (written) nifti_image_free(written);
    if (out) nifti_image_free(out);
    if (in) nifti_image_free(in);
    return status;
}
