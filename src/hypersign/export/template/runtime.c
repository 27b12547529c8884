/* PIECE types */
typedef struct { /* the window of a convolution or a pool: sizes in pixels, channels per pixel in numbers or words */
    int height, width, channels, out_height, out_width, out_channels;
    int kernel_height, kernel_width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
} window;

/* PIECE popcount */
static int popcount(uint32_t x)
{
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    return (int)((((x + (x >> 4)) & 0x0f0f0f0fu) * 0x01010101u) >> 24);
}

/* PIECE weight_level */
/* The level of weight i of a row of packed levels: -1, 0 or +1. `used` is null where no level is 0. */
static int weight_level(const uint32_t *sign, const uint32_t *used, int32_t i)
{
    const uint32_t bit = 1u << (i & 31);
    if (used && !(used[i >> 5] & bit))
        return 0;
    return (sign[i >> 5] & bit) ? -1 : 1;
}

/* PIECE put_level */
/* Writes one level of a pixel: -1 where x < low, else +1 (0 where high exists and x < high), negated where flip. */
static void put_level(uint32_t *sign, uint32_t *used, int c, int below, int middle, int flip)
{
    const uint32_t bit = 1u << (c & 31);
    if (used) {
        if (middle)
            return;
        used[c >> 5] |= bit;
    }
    if (below != flip)
        sign[c >> 5] |= bit;
}

/* PIECE cleared */
/* The words of a pixel, set to 0; null where y is. */
static uint32_t *cleared(uint32_t *y, int32_t at, int words)
{
    return y ? memset(y + at * words, 0, (size_t)words * 4) : 0;
}

/* PIECE put_sum */
static void put_sum(int32_t sum, int c, uint32_t *sign, uint32_t *used, int32_t *sums, const int32_t *low,
                    const int32_t *high, const uint8_t *flip)
{
    if (sums)
        sums[c] = sum;
    else
        put_level(sign, used, c, sum < low[c], high && sum >= low[c] && sum < high[c], flip[c]);
}

/* PIECE conv_bits */
/* Products of packed levels. A filter is one row of words per tap; `counts` marks the channels of a row that count, or
   is null where all do. `fill` is the level of padding: 1, or 0 where padding adds nothing. */
static void conv_bits(const window *o, const uint32_t *x, const uint32_t *x_used, const uint32_t *weight,
                      const uint32_t *counts, const uint32_t *channel_mask, int fill, uint32_t *y, uint32_t *y_used,
                      int32_t *sums, const int32_t *low, const int32_t *high, const uint8_t *flip)
{
    const int words = (o->channels + 31) / 32, y_words = (o->out_channels + 31) / 32;
    const int taps = o->kernel_height * o->kernel_width;
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        uint32_t *sign = cleared(sums ? 0 : y, at, y_words), *used = cleared(y_used, at, y_words);
        for (int f = 0; f < o->out_channels; f++) {
            const uint32_t *row = weight + (int32_t)f * taps * words;
            const uint32_t *mask = counts ? counts + (int32_t)f * taps * words : 0;
            int32_t total = 0, differ = 0;
            for (int i = 0; i < o->kernel_height; i++) {
                const int r = top + i * o->dilation_y;
                for (int j = 0; j < o->kernel_width; j++, row += words, mask += mask ? words : 0) {
                    const int c = left + j * o->dilation_x;
                    const int inside = r >= 0 && r < o->height && c >= 0 && c < o->width;
                    const int32_t from = inside ? ((int32_t)r * o->width + c) * words : 0;
                    if (!inside && !fill)
                        continue;
                    for (int k = 0; k < words; k++) {
                        uint32_t both = mask ? mask[k] : channel_mask[k];
                        if (inside && x_used)
                            both &= x_used[from + k];
                        total += popcount(both);
                        differ += popcount(((inside ? x[from + k] : 0) ^ row[k]) & both);
                    }
                }
            }
            put_sum(total - 2 * differ, f, sign, used, sums ? sums + (int32_t)at * o->out_channels : 0, low, high, flip);
        }
    }
}

/* PIECE conv_signs */
/* The same where no level is 0: only the differing bits are counted. Padding adds nothing. */
static void conv_signs(const window *o, const uint32_t *x, const uint32_t *weight, uint32_t *y, uint32_t *y_used,
                       int32_t *sums, const int32_t *low, const int32_t *high, const uint8_t *flip)
{
    const int words = (o->channels + 31) / 32, y_words = (o->out_channels + 31) / 32;
    const int taps = o->kernel_height * o->kernel_width;
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        uint32_t *sign = cleared(sums ? 0 : y, at, y_words), *used = cleared(y_used, at, y_words);
        for (int f = 0; f < o->out_channels; f++) {
            const uint32_t *row = weight + (int32_t)f * taps * words;
            int32_t inside = 0, differ = 0;
            for (int i = 0; i < o->kernel_height; i++) {
                const int r = top + i * o->dilation_y;
                for (int j = 0; j < o->kernel_width; j++, row += words) {
                    const int c = left + j * o->dilation_x;
                    if (r < 0 || r >= o->height || c < 0 || c >= o->width)
                        continue;
                    const uint32_t *pixel = x + ((int32_t)r * o->width + c) * words;
                    for (int k = 0; k < words; k++)
                        differ += popcount(pixel[k] ^ row[k]);
                    inside += o->channels;
                }
            }
            put_sum(inside - 2 * differ, f, sign, used, sums ? sums + (int32_t)at * o->out_channels : 0, low, high, flip);
        }
    }
}

/* PIECE conv_pixels */
/* Sums of multiplier * pixel + shift with the signs of the filters; padding adds nothing. A filter is `row` words. */
static void conv_pixels(const window *o, const uint8_t *x, int32_t multiplier, int32_t shift, int row,
                        const uint32_t *weight, const uint32_t *weight_used, uint32_t *y, uint32_t *y_used,
                        int32_t *sums, const int32_t *low, const int32_t *high, const uint8_t *flip)
{
    const int y_words = (o->out_channels + 31) / 32;
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        uint32_t *sign = cleared(sums ? 0 : y, at, y_words), *used = cleared(y_used, at, y_words);
        for (int f = 0; f < o->out_channels; f++) {
            const uint32_t *filter = weight + (int32_t)f * row;
            const uint32_t *filter_used = weight_used ? weight_used + (int32_t)f * row : 0;
            int32_t sum = 0, n = 0;
            for (int i = 0; i < o->kernel_height; i++)
                for (int j = 0; j < o->kernel_width; j++) {
                    const int r = top + i * o->dilation_y, c = left + j * o->dilation_x;
                    if (r < 0 || r >= o->height || c < 0 || c >= o->width) {
                        n += o->channels;
                        continue;
                    }
                    const uint8_t *pixel = x + ((int32_t)r * o->width + c) * o->channels;
                    for (int k = 0; k < o->channels; k++, n++) {
                        const int level = weight_level(filter, filter_used, n);
                        const int32_t number = multiplier * pixel[k] + shift;
                        sum += level < 0 ? -number : level ? number : 0;
                    }
                }
            put_sum(sum, f, sign, used, sums ? sums + (int32_t)at * o->out_channels : 0, low, high, flip);
        }
    }
}

/* PIECE conv_real */
/* Sums of products in double, each rounded to float once; weights are floats, or packed levels of `row` words. */
static void conv_real(const window *o, int groups, const float *x, const float *weight, const uint32_t *levels,
                      const uint32_t *levels_used, int row, float *y)
{
    const int depth = o->channels / groups, filters = o->out_channels / groups;
    const int32_t fan_in = (int32_t)o->kernel_height * o->kernel_width * depth;
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        for (int f = 0; f < o->out_channels; f++) {
            double sum = 0;
            int32_t n = 0;
            for (int i = 0; i < o->kernel_height; i++)
                for (int j = 0; j < o->kernel_width; j++) {
                    const int r = top + i * o->dilation_y, c = left + j * o->dilation_x;
                    if (r < 0 || r >= o->height || c < 0 || c >= o->width) {
                        n += depth;
                        continue;
                    }
                    const float *pixel = x + ((int32_t)r * o->width + c) * o->channels + f / filters * depth;
                    for (int k = 0; k < depth; k++, n++)
                        sum += (double)pixel[k] * (weight ? (double)weight[f * fan_in + n]
                                                          : weight_level(levels + (int32_t)f * row,
                                                                         levels_used ? levels_used + (int32_t)f * row : 0, n));
                }
            y[(int32_t)at * o->out_channels + f] = (float)sum;
        }
    }
}

/* PIECE quantize */
/* Levels of pixels, sums or floats by thresholds of their own type. */
static void quantize_NAME(int pixels, int channels, const NUMBER *x, uint32_t *y, uint32_t *y_used, const LIMIT *low,
                          const LIMIT *high, const uint8_t *flip)
{
    const int words = (channels + 31) / 32;
    for (int32_t at = 0; at < pixels; at++, x += channels) {
        uint32_t *sign = cleared(y, at, words), *used = cleared(y_used, at, words);
        for (int c = 0; c < channels; c++)
            put_level(sign, used, c, x[c] < low[c], high && x[c] >= low[c] && x[c] < high[c], flip[c]);
    }
}

/* PIECE scaled */
/* x * scale + shift, product and sum rounded to float each: volatile keeps compilers from fusing them. */
static float scaled(float x, float scale, float shift)
{
    volatile float product = x * scale;
    volatile float sum = product + shift;
    return sum;
}

/* PIECE pixels_real */
static void pixels_real(int32_t count, const uint8_t *x, float scale, float shift, float *y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = scaled((float)x[i], scale, shift);
}

/* PIECE unpack */
static void unpack(int pixels, int channels, const uint32_t *sign, const uint32_t *used, float *y)
{
    const int words = (channels + 31) / 32;
    for (int at = 0; at < pixels; at++)
        for (int c = 0; c < channels; c++)
            *y++ = (float)weight_level(sign + (int32_t)at * words, used ? used + (int32_t)at * words : 0, c);
}

/* PIECE affine */
static void affine_NAME(int pixels, int channels, const NUMBER *x, const float *scale, const float *shift, float *y)
{
    for (int at = 0; at < pixels; at++)
        for (int c = 0; c < channels; c++)
            *y++ = scaled((float)*x++, scale[c], shift[c]);
}

/* PIECE centre */
static void centre(int32_t count, const float *x, float *y)
{
    double sum = 0;
    for (int32_t i = 0; i < count; i++)
        sum += x[i];
    const float mean = (float)(sum / count);
    for (int32_t i = 0; i < count; i++)
        y[i] = x[i] - mean;
}

/* PIECE clip_low */
static void clip_low(int32_t count, const float *x, float low, float *y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = x[i] < low ? low : x[i];
}

/* PIECE clip_high */
static void clip_high(int32_t count, const float *x, float high, float *y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = x[i] > high ? high : x[i];
}

/* PIECE add */
static void add(int32_t count, const float *a, const float *b, float *y)
{
    for (int32_t i = 0; i < count; i++)
        y[i] = a[i] + b[i];
}

/* PIECE put_channels */
static void put_channels(int pixels, int channels, int all, const float *x, float *y)
{
    for (int at = 0; at < pixels; at++, y += all)
        for (int c = 0; c < channels; c++)
            y[c] = *x++;
}

/* PIECE max_levels */
/* The largest level of each window: -1 only where all are, +1 where one is. */
static void max_levels(const window *o, const uint32_t *x, const uint32_t *x_used, const uint32_t *flip, uint32_t *y,
                       uint32_t *y_used)
{
    const int words = (o->channels + 31) / 32;
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        for (int k = 0; k < words; k++) {
            uint32_t minus = 0xffffffffu, plus = 0;
            for (int r = top < 0 ? 0 : top; r < top + o->kernel_height && r < o->height; r++)
                for (int c = left < 0 ? 0 : left; c < left + o->kernel_width && c < o->width; c++) {
                    const int32_t from = ((int32_t)r * o->width + c) * words + k;
                    const uint32_t used = x_used ? x_used[from] : 0xffffffffu;
                    minus &= x[from] & used;
                    plus |= used & ~x[from];
                }
            if (y_used) {
                y_used[(int32_t)at * words + k] = minus | plus;
                y[(int32_t)at * words + k] = (minus ^ flip[k]) & (minus | plus);
            } else {
                y[(int32_t)at * words + k] = minus ^ flip[k];
            }
        }
    }
}

/* PIECE max */
static void max_NAME(const window *o, const NUMBER *x, NUMBER *y)
{
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        for (int k = 0; k < o->channels; k++) {
            NUMBER largest = 0;
            int seen = 0;
            for (int r = top < 0 ? 0 : top; r < top + o->kernel_height && r < o->height; r++)
                for (int c = left < 0 ? 0 : left; c < left + o->kernel_width && c < o->width; c++) {
                    const NUMBER number = x[((int32_t)r * o->width + c) * o->channels + k];
                    largest = !seen || number > largest ? number : largest;
                    seen = 1;
                }
            *y++ = largest;
        }
    }
}

/* PIECE mean_real */
/* The mean of each window, summed in float. Padding counts as zeros where count_padding, and not at all elsewhere. */
static void mean_real(const window *o, int count_padding, const float *x, float *y)
{
    for (int at = 0; at < o->out_height * o->out_width; at++) {
        const int top = at / o->out_width * o->stride_y - o->pad_y, left = at % o->out_width * o->stride_x - o->pad_x;
        const int end_y = top + o->kernel_height < o->height + o->pad_y ? top + o->kernel_height : o->height + o->pad_y;
        const int end_x = left + o->kernel_width < o->width + o->pad_x ? left + o->kernel_width : o->width + o->pad_x;
        for (int k = 0; k < o->channels; k++) {
            float sum = 0;
            int count = 0;
            for (int r = top < 0 ? 0 : top; r < end_y && r < o->height; r++)
                for (int c = left < 0 ? 0 : left; c < end_x && c < o->width; c++, count++)
                    sum += x[((int32_t)r * o->width + c) * o->channels + k];
            *y++ = sum / (float)(count_padding ? (end_y - top) * (end_x - left) : count);
        }
    }
}

/* PIECE transform */
/* The Walsh-Hadamard transform of n numbers, n a power of two, in place and not scaled. */
static void transform(INTEGER *y, int32_t n)
{
    for (int32_t half = 1; half < n; half *= 2)
        for (int32_t start = 0; start < n; start += 2 * half)
            for (int32_t i = start; i < start + half; i++) {
                const INTEGER a = y[i], b = y[i + half];
                y[i] = a + b;
                y[i + half] = a - b;
            }
}

/* PIECE shifted */
/* y * 2^exponent, rounded down: >> of a negative number keeps its sign, as all known compilers have it. */
static INTEGER shifted(INTEGER y, int exponent)
{
    const int most = (int)sizeof(INTEGER) * 8 - 1;
    if (exponent >= 0)
        return y * ((INTEGER)1 << exponent);
    return y >> (-exponent < most ? -exponent : most);
}

/* PIECE rotate */
/* Rounds of sign flips and transforms of multiplier * pixel + shift in the order (channel, row, column). */
static void rotate(int pixels, int channels, const uint8_t *x, int32_t multiplier, int32_t shift, int32_t n, int rounds,
                   const uint32_t *signs, int32_t outputs, int exponent, INTEGER *room, int32_t *y)
{
    int32_t i = 0;
    for (int c = 0; c < channels; c++)
        for (int at = 0; at < pixels; at++)
            room[i++] = (INTEGER)multiplier * x[(int32_t)at * channels + c] + shift;
    while (i < n)
        room[i++] = 0;
    for (int round = 0; round < rounds; round++, signs += (n + 31) / 32) {
        for (i = 0; i < n; i++)
            if (signs[i >> 5] >> (i & 31) & 1)
                room[i] = -room[i];
        transform(room, n);
    }
    for (i = 0; i < outputs; i++)
        y[i] = (int32_t)shifted(room[i], exponent);
}

/* PIECE switch_slopes */
/* Shifts each number right and perhaps negates it: by one set of slopes for numbers >= 0, by another for those < 0. */
static void switch_slopes(int32_t n, const int32_t *x, const uint8_t *slopes, int exponent, int32_t *y)
{
    for (int32_t i = 0; i < n; i++) {
        const uint8_t slope = slopes[x[i] < 0 ? n + i : i];
        const int32_t number = (int32_t)shifted(x[i], exponent - (slope & 3));
        y[i] = slope & 4 ? -number : number;
    }
}

/* PIECE hadamard */
static void hadamard(int32_t n, const int32_t *x, INTEGER *room, int32_t *y)
{
    for (int32_t i = 0; i < n; i++)
        room[i] = x[i];
    transform(room, n);
    for (int32_t i = 0; i < n; i++)
        y[i] = (int32_t)room[i];
}

/* PIECE signed_sum */
static void signed_sum(int32_t n, int filters, const int32_t *x, int exponent, int row, const uint32_t *weight,
                       const uint32_t *weight_used, int32_t *y)
{
    for (int f = 0; f < filters; f++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < n; i++) {
            const int level = weight_level(weight + (int32_t)f * row, weight_used ? weight_used + (int32_t)f * row : 0, i);
            const int32_t number = (int32_t)shifted(x[i], exponent);
            sum += level < 0 ? -number : level ? number : 0;
        }
        y[f] = sum;
    }
}

/* PIECE class */
int PREFIX_class(const INPUT *image)
{
    float outputs[OUTPUTS];
    int best = 0;
    PREFIX_run(image, outputs);
    for (int i = 1; i < OUTPUTS; i++)
        if (outputs[i] > outputs[best])
            best = i;
    return best;
}

/* PIECE main */
#ifdef PREFIX_MAIN
#include <stdio.h>

int main(void)
{
    static INPUT image[SIZE];
    float outputs[OUTPUTS];
    while (fread(image, sizeof image, 1, stdin) == 1) {
        PREFIX_run(image, outputs);
        for (int i = 0; i < OUTPUTS; i++)
            printf(i ? " %.9g" : "%.9g", (double)outputs[i]);
        printf("\n");
    }
    return 0;
}
#endif
