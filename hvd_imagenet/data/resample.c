/* Resizes RGB images of 8 bits by a triangle filter, mirrors and normalises them.
 *
 * The arithmetic is that of Pillow, in which nearly all published results on ImageNet were made: the filter is widened
 * by the scale where it shrinks, weights have 22 bits behind the point, and what a row gives is rounded to 8 bits
 * before the columns are taken. Pixels are counted in integers, so every CPU gives the same bits. GCC vectorises these
 * loops as they stand, for whatever the CPU has; DALI's and Pillow's own are not vectorised.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define POINT 22
#define HALF (1 << (POINT - 1))
#define CHANNELS 3
#define BLOCK 64 /* values of a row at a time, which stay in registers */

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 12
#define VECTORISED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VECTORISED
#endif

/* A pixel and the first channel of the next one, in one register. */
typedef int32_t pixel __attribute__((vector_size(16)));

/* Which inputs make each of n outputs along a line: `count` from `first` on, with their weights. */
typedef struct {
    int count;
    int *first;
    int32_t *weights;
} taps;

static void taps_free(taps *t)
{
    free(t->first);
    free(t->weights);
}

/* From `start` to `end`, of a line of `size`, to n outputs; 0, or -1: no memory. */
static int taps_make(taps *t, int size, double start, double end, int n, int antialiased)
{
    double scale = (end - start) / n, reach = antialiased && scale > 1 ? scale : 1;
    int most = 2 * (int)ceil(reach) + 1;
    double *weights = malloc(most * sizeof *weights);

    t->count = 0;
    t->first = malloc(n * sizeof *t->first);
    t->weights = calloc((size_t)n * most, sizeof *t->weights);
    if (!weights || !t->first || !t->weights) {
        free(weights);
        return -1;
    }
    for (int i = 0; i < n; i++) {
        double centre = start + (i + 0.5) * scale, sum = 0;
        int first = (int)(centre - reach + 0.5), last = (int)(centre + reach + 0.5);

        first = first < 0 ? 0 : first;
        last = last > size ? size : last;
        for (int k = 0; k < last - first; k++) {
            double distance = fabs((first + k - centre + 0.5) * (1 / reach));
            weights[k] = distance < 1 ? 1 - distance : 0;
            sum += weights[k];
        }
        for (int k = 0; k < last - first; k++)
            t->weights[(size_t)i * most + k] = (int32_t)(0.5 + weights[k] * (1 / sum) * (1 << POINT));
        t->first[i] = first;
        t->count = last - first > t->count ? last - first : t->count;
    }
    for (int i = 1; i < n; i++) /* as many to each as any needs: a loop of one length is a fast one */
        memmove(t->weights + (size_t)i * t->count, t->weights + (size_t)i * most, t->count * sizeof *t->weights);
    free(weights);
    return 0;
}

/* One row of `width` pixels to n; `wide` has room for width + taps + 1 pixels, of which those beyond are 0. */
VECTORISED static void along_row(const uint8_t *in, int width, const taps *t, int n, int32_t *wide, int32_t *sums,
                                 uint8_t *out)
{
    for (int i = 0; i < CHANNELS * width; i++)
        wide[i] = in[i];
    for (int i = 0; i < n; i++) {
        const int32_t *from = wide + CHANNELS * t->first[i], *weights = t->weights + (size_t)i * t->count;
        pixel sum = {HALF, HALF, HALF, 0}, value;

        for (int k = 0; k < t->count; k++) {
            memcpy(&value, from + CHANNELS * k, sizeof value);
            sum += value * weights[k];
        }
        sum >>= POINT;
        memcpy(sums + CHANNELS * i, &sum, sizeof sum); /* the fourth value is overwritten by the next pixel */
    }
    for (int i = 0; i < CHANNELS * n; i++)
        out[i] = sums[i];
}

/* `count` rows of `stride` values, a multiple of BLOCK, to one. */
VECTORISED static void along_columns(const uint8_t *in, size_t stride, int count, const int32_t *weights, uint8_t *out)
{
    for (size_t block = 0; block < stride; block += BLOCK) {
        int32_t sums[BLOCK];

        for (int i = 0; i < BLOCK; i++)
            sums[i] = HALF;
        for (int k = 0; k < count; k++)
            for (int i = 0; i < BLOCK; i++)
                sums[i] += in[k * stride + block + i] * weights[k];
        for (int i = 0; i < BLOCK; i++)
            out[block + i] = sums[i] >> POINT;
    }
}

static void normalise(const uint8_t *row, int n, const float (*table)[256], int mirror, float *restrict out)
{
    int step = mirror ? -CHANNELS : CHANNELS;

    row += mirror ? CHANNELS * (n - 1) : 0;
    for (int i = 0; i < n; i++, row += step)
        for (int c = 0; c < CHANNELS; c++)
            out[CHANNELS * i + c] = table[c][row[c]];
}

/* One image to n by n; 0, or -1: no memory. */
static int resample(const uint8_t *image, int height, int width, const double region[4], int mirror, int antialiased,
                    int n, const float (*table)[256], float *out)
{
    size_t stride = ((size_t)CHANNELS * n + BLOCK - 1) / BLOCK * BLOCK;
    taps rows = {0}, columns = {0};
    int32_t *wide = NULL, *sums = NULL;
    uint8_t *lines = NULL;
    int status = -1;

    if (taps_make(&rows, height, region[0], region[2], n, antialiased) ||
        taps_make(&columns, width, region[1], region[3], n, antialiased))
        goto end;

    int top = rows.first[0], bottom = rows.first[n - 1] + rows.count; /* what the rows are made of */
    wide = calloc(CHANNELS * ((size_t)width + columns.count + 1), sizeof *wide);
    sums = malloc((CHANNELS * (size_t)n + 1) * sizeof *sums);
    lines = calloc((size_t)(bottom - top) + 1, stride); /* beyond the image they are 0, as their weights */
    if (!wide || !sums || !lines)
        goto end;

    for (int y = top; y < bottom && y < height; y++)
        along_row(image + (size_t)CHANNELS * width * y, width, &columns, n, wide, sums, lines + stride * (y - top));
    uint8_t *row = lines + stride * (bottom - top);
    for (int y = 0; y < n; y++) {
        along_columns(lines + stride * (rows.first[y] - top), stride, rows.count,
                      rows.weights + (size_t)y * rows.count, row);
        normalise(row, n, table, mirror, out + (size_t)CHANNELS * n * y);
    }
    status = 0;
end:
    free(lines);
    free(sums);
    free(wide);
    taps_free(&columns);
    taps_free(&rows);
    return status;
}

/* `count` images, each of a height and width of its own, packed (height, width, 3), to (count, n, n, 3).
 *
 * regions: of each image, top, left, bottom and right of what is taken, in pixels; the filter sees all of the image.
 * table: what each of the 256 values becomes in each channel.
 * 0, or -1: no memory. */
int resample_images(int64_t count, const uint8_t *const *images, const int64_t (*sizes)[2], const double (*regions)[4],
                    const uint8_t *mirror, int antialiased, int n, const float (*table)[256], float *out)
{
    for (int64_t i = 0; i < count; i++)
        if (resample(images[i], (int)sizes[i][0], (int)sizes[i][1], regions[i], mirror[i], antialiased, n, table,
                     out + (size_t)i * CHANNELS * n * n))
            return -1;
    return 0;
}
