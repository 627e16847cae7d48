/* SPDX-License-Identifier: Apache-2.0 */
/* Bits against error, drawn as an SVG file: two panels, a line along each series' best points. */
#include "eval_pareto.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>

#define SERIES 8u
#define MOST   64u

#define PANEL_WIDTH 520.0
#define TOP         70.0
#define BOTTOM      430.0
#define LEFT        70.0
#define RIGHT       500.0

struct drawing {
    FILE *out;
    const struct akv_pareto_point *points;
    uint32_t count;
    const char *series[SERIES];
    uint32_t series_count;
    double bits[2]; /* ends of the axis, logarithmic */
    /* of the panel being drawn */
    bool output;    /* output error, not attention total variation */
    double shift;   /* of the panel's left edge */
    double error[2]; /* decimal logarithms of the axis' ends */
};

/* Colours that stay apart for colour-blind readers (Okabe and Ito). */
static const char *const colours[SERIES] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                            "#e69f00", "#56b4e9", "#000000", "#999999"};

static double error_of(const struct drawing *d, uint32_t i)
{
    return d->output ? d->points[i].output_error : d->points[i].attention_tv;
}

static bool shown(const struct drawing *d, uint32_t i)
{
    return d->points[i].attention_tv > 0.0 && d->points[i].output_error > 0.0;
}

static uint32_t series_of(const struct drawing *d, uint32_t i)
{
    uint32_t s = 0;
    while (s + 1 < d->series_count && strcmp(d->series[s], d->points[i].series) != 0)
        s++;
    return s;
}

static double x_of(const struct drawing *d, double bits)
{
    return d->shift + LEFT + log2(bits / d->bits[0]) / log2(d->bits[1] / d->bits[0]) * (RIGHT - LEFT);
}

static double y_of(const struct drawing *d, double error)
{
    return BOTTOM - (log10(error) - d->error[0]) / (d->error[1] - d->error[0]) * (BOTTOM - TOP);
}

/* Text with the characters that XML reserves spelt out. */
static void put_text(FILE *out, const char *text)
{
    for (; *text != '\0'; text++) {
        if (*text == '&')
            fputs("&amp;", out);
        else if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '>')
            fputs("&gt;", out);
        else
            fputc(*text, out);
    }
}

static void find_ends(struct drawing *d)
{
    double bits[2] = {INFINITY, -INFINITY}, error[2] = {INFINITY, -INFINITY};
    for (uint32_t i = 0; i < d->count; i++) {
        if (!shown(d, i))
            continue;
        bits[0] = fmin(bits[0], d->points[i].bits);
        bits[1] = fmax(bits[1], d->points[i].bits);
        error[0] = fmin(error[0], log10(error_of(d, i)));
        error[1] = fmax(error[1], log10(error_of(d, i)));
    }
    if (!(bits[0] <= bits[1])) { /* no point at all: an empty frame */
        bits[0] = bits[1] = 4.0;
        error[0] = error[1] = -2.0;
    }
    d->bits[0] = bits[0] / 1.05;
    d->bits[1] = bits[1] * 1.2;
    d->error[0] = error[0] - 0.08;
    d->error[1] = error[1] + 0.08;
}

static void draw_axes(const struct drawing *d)
{
    const double left = d->shift + LEFT, right = d->shift + RIGHT;
    fprintf(d->out, "<g stroke=\"#e0e0e0\" stroke-width=\"1\" fill=\"none\">\n");
    static const double ticks[] = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0};
    for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        if (ticks[i] >= d->bits[0] && ticks[i] <= d->bits[1])
            fprintf(d->out, "<path d=\"M%.1f %.1fV%.1f\"/>\n", x_of(d, ticks[i]), TOP, BOTTOM);
    static const double digits[] = {1.0, 2.0, 5.0};
    for (int power = (int)floor(d->error[0]); power <= (int)ceil(d->error[1]); power++)
        for (int i = 0; i < 3; i++) {
            const double error = digits[i] * pow(10.0, power);
            if (log10(error) >= d->error[0] && log10(error) <= d->error[1])
                fprintf(d->out, "<path d=\"M%.1f %.1fH%.1f\"/>\n", left, y_of(d, error), right);
        }
    fprintf(d->out, "</g>\n<path d=\"M%.1f %.1fV%.1fH%.1f\" stroke=\"#000\" fill=\"none\"/>\n", left,
            TOP, BOTTOM, right);
    for (size_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        if (ticks[i] >= d->bits[0] && ticks[i] <= d->bits[1])
            fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%.0f</text>\n",
                    x_of(d, ticks[i]), BOTTOM + 18.0, ticks[i]);
    for (int power = (int)floor(d->error[0]); power <= (int)ceil(d->error[1]); power++)
        for (int i = 0; i < 3; i++) {
            const double error = digits[i] * pow(10.0, power);
            if (log10(error) >= d->error[0] && log10(error) <= d->error[1])
                fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                        left - 6.0, y_of(d, error) + 4.0, error);
        }
    fprintf(d->out,
            "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">bits an element, keys and values, all "
            "metadata</text>\n",
            (left + right) / 2.0, BOTTOM + 40.0);
    fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\" font-weight=\"bold\">%s</text>\n",
            (left + right) / 2.0, TOP - 12.0,
            d->output ? "output error" : "attention total variation");
}

/* Is no other point of the series at most as wide and better? */
static bool best(const struct drawing *d, uint32_t i)
{
    for (uint32_t j = 0; j < d->count; j++)
        if (j != i && shown(d, j) && series_of(d, j) == series_of(d, i) &&
            d->points[j].bits <= d->points[i].bits && error_of(d, j) < error_of(d, i))
            return false;
    return true;
}

/* A line along the best points of a series, by bits ascending. */
static void draw_line(const struct drawing *d, uint32_t s)
{
    double last = -1.0;
    bool some = false;
    fprintf(d->out, "<path stroke=\"%s\" stroke-width=\"1.5\" fill=\"none\" d=\"", colours[s]);
    for (;;) {
        uint32_t next = d->count;
        for (uint32_t i = 0; i < d->count; i++)
            if (shown(d, i) && series_of(d, i) == s && d->points[i].bits > last && best(d, i) &&
                (next == d->count || d->points[i].bits < d->points[next].bits))
                next = i;
        if (next == d->count)
            break;
        fprintf(d->out, "%c%.1f %.1f", some ? 'L' : 'M', x_of(d, d->points[next].bits),
                y_of(d, error_of(d, next)));
        some = true;
        last = d->points[next].bits;
    }
    if (!some)
        fprintf(d->out, "M0 0");
    fputs("\"/>\n", d->out);
}

/* Labels keep out of each other's way: each goes right of its point, above or below it, at the first
 * place that none before has taken. */
static void draw_points(const struct drawing *d)
{
    static const double offsets[][2] = {{7.0, 4.0},   {7.0, -6.0}, {7.0, 14.0}, {-7.0, 4.0},
                                        {-7.0, -6.0}, {-7.0, 14.0}};
    double taken[MOST][3]; /* x of both ends, y */
    uint32_t labels = 0;
    for (uint32_t i = 0; i < d->count; i++) {
        if (!shown(d, i))
            continue;
        const double x = x_of(d, d->points[i].bits), y = y_of(d, error_of(d, i));
        const double width = 5.4 * (double)strlen(d->points[i].name);
        const char *colour = colours[series_of(d, i)];
        fprintf(d->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"><title>", x, y, colour);
        put_text(d->out, d->points[i].name);
        fprintf(d->out, " %s: %.3f bits, %.5f</title></circle>\n", d->points[i].series,
                d->points[i].bits, error_of(d, i));
        for (size_t place = 0; place < sizeof offsets / sizeof offsets[0]; place++) {
            const bool before = offsets[place][0] < 0.0;
            const double from = x + offsets[place][0] - (before ? width : 0.0);
            const double line = y + offsets[place][1];
            bool free = from > d->shift + LEFT && from + width < d->shift + RIGHT + 20.0 &&
                        line > TOP && line < BOTTOM;
            for (uint32_t j = 0; j < labels && free; j++)
                free = fabs(taken[j][2] - line) > 9.0 || from > taken[j][1] || from + width < taken[j][0];
            for (uint32_t j = 0; j < d->count && free; j++) {
                const double px = x_of(d, d->points[j].bits);
                free = j == i || !shown(d, j) || px < from - 4.0 || px > from + width + 4.0 ||
                       fabs(y_of(d, error_of(d, j)) - (line - 3.5)) > 7.0;
            }
            if (!free)
                continue;
            fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\" font-size=\"9.5\" paint-order=\"stroke\" stroke=\"#fff\" stroke-width=\"3\" fill=\"%s\">",
                    from, line, colour);
            put_text(d->out, d->points[i].name);
            fputs("</text>\n", d->out);
            taken[labels][0] = from;
            taken[labels][1] = from + width;
            taken[labels++][2] = line;
            break;
        }
    }
}

static void draw_legend(const struct drawing *d)
{
    double x = LEFT;
    for (uint32_t s = 0; s < d->series_count; s++) {
        fprintf(d->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"/>\n", x, BOTTOM + 62.0,
                colours[s]);
        fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\">", x + 9.0, BOTTOM + 66.0);
        put_text(d->out, d->series[s]);
        fputs("</text>\n", d->out);
        x += 40.0 + 7.0 * (double)strlen(d->series[s]);
    }
    fprintf(d->out, "<text x=\"%.1f\" y=\"%.1f\" fill=\"#666\">lines join the best points of a transform; "
                    "lower and further left is better</text>\n",
            x + 10.0, BOTTOM + 66.0);
}

static void draw_all(struct drawing *d, const char *title)
{
    fprintf(d->out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
            "%.0f\" font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n"
            "<text x=\"%.0f\" y=\"28\" font-size=\"15\">",
            2.0 * PANEL_WIDTH, BOTTOM + 85.0, 2.0 * PANEL_WIDTH, BOTTOM + 85.0, LEFT);
    put_text(d->out, title);
    fputs("</text>\n", d->out);
    for (int panel = 0; panel < 2; panel++) {
        d->output = panel == 1;
        d->shift = panel * PANEL_WIDTH;
        find_ends(d);
        draw_axes(d);
        for (uint32_t s = 0; s < d->series_count; s++)
            draw_line(d, s);
        draw_points(d);
    }
    draw_legend(d);
    fputs("</svg>\n", d->out);
}

anykv_status akv_pareto_draw(const char *path, const char *title,
                             const struct akv_pareto_point *points, uint32_t count)
{
    struct drawing d = {.points = points, .count = count < MOST ? count : MOST};
    for (uint32_t i = 0; i < d.count; i++) {
        uint32_t s = 0;
        while (s < d.series_count && strcmp(d.series[s], points[i].series) != 0)
            s++;
        if (shown(&d, i) && s == d.series_count && s < SERIES)
            d.series[d.series_count++] = points[i].series;
    }
    d.out = fopen(path, "w");
    if (d.out == NULL)
        return akv_fail(NULL, ANYKV_E_IO, "%s: cannot be created: %s", path, strerror(errno));
    draw_all(&d, title);
    const bool failed = ferror(d.out) != 0;
    if (fclose(d.out) != 0 || failed)
        return akv_fail(NULL, ANYKV_E_IO, "%s: cannot be written", path);
    return ANYKV_OK;
}
