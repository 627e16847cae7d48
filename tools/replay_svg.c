/* SPDX-License-Identifier: Apache-2.0 */
/* `anykv replay --svg`: hit share over capacity, a curve for each policy. */
#include "replay.h"
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#define WIDTH  760.0
#define HEIGHT 460.0
#define LEFT   60.0
#define RIGHT  600.0 /* names stand to the right */
#define TOP    40.0
#define BOTTOM 400.0
#define LINE   16.0 /* least distance of two names */
#define CURVES 16u

static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000", "#999999"};

struct scale {
    double first, last; /* logarithms of the capacities */
    double most;        /* share at the top */
};

static double x_of(const struct scale *s, uint64_t blocks)
{
    const double width = s->last - s->first;
    return width > 0.0 ? LEFT + (RIGHT - LEFT) * (log((double)blocks) - s->first) / width
                       : (LEFT + RIGHT) / 2.0;
}

static double y_of(const struct scale *s, double share)
{
    return BOTTOM - (BOTTOM - TOP) * share / s->most;
}

static void text(FILE *file, const char *words)
{
    for (; *words; words++)
        if (*words == '&' || *words == '<' || *words == '>')
            fprintf(file, "&#%d;", *words);
        else
            fputc(*words, file);
}

static void axes(FILE *file, const struct scale *s, const char *title, const uint64_t *blocks,
                 uint32_t points)
{
    fprintf(file,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
            "font-family=\"sans-serif\" font-size=\"12\">\n"
            "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<text x=\"%.0f\" y=\"24\" font-size=\"14\">Hits in %% of lookups, ",
            WIDTH, HEIGHT, LEFT);
    text(file, title);
    fprintf(file, "</text>\n");
    const double step = s->most > 0.5 ? 0.1 : s->most > 0.2 ? 0.05 : 0.02;
    for (uint32_t line = 0; line * step <= s->most + 1e-9; line++) {
        const double share = line * step;
        fprintf(file,
                "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#ddd\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%.0f</text>\n",
                LEFT, y_of(s, share), RIGHT, LEFT - 6.0, y_of(s, share) + 4.0, 100.0 * share);
    }
    for (uint32_t p = 0; p < points; p++)
        fprintf(file,
                "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#ddd\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%" PRIu64 "</text>\n",
                x_of(s, blocks[p]), TOP, BOTTOM, x_of(s, blocks[p]), BOTTOM + 18.0, blocks[p]);
    fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">blocks</text>\n",
            (LEFT + RIGHT) / 2.0, BOTTOM + 40.0);
}

/* Where the names stand: at the curves' ends, pushed apart. */
static void place_names(const struct scale *s, uint32_t points, const struct akv_curve *curves,
                        uint32_t count, double *y)
{
    uint32_t order[CURVES];
    for (uint32_t c = 0; c < count; c++) {
        uint32_t at = c;
        while (at > 0 && curves[order[at - 1]].share[points - 1] < curves[c].share[points - 1]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = c;
    }
    double last = TOP - LINE;
    for (uint32_t i = 0; i < count; i++) {
        const double wanted = y_of(s, curves[order[i]].share[points - 1]);
        last = wanted > last + LINE ? wanted : last + LINE;
        y[order[i]] = last;
    }
}

static void draw(FILE *file, const struct scale *s, const uint64_t *blocks, uint32_t points,
                 const struct akv_curve *curves, uint32_t count)
{
    double name_y[CURVES];
    place_names(s, points, curves, count, name_y);
    for (uint32_t c = 0; c < count; c++) {
        const char *colour = colours[c % (sizeof colours / sizeof *colours)];
        const double end = x_of(s, blocks[points - 1]);
        fprintf(file, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s points=\"",
                colour, c >= sizeof colours / sizeof *colours ? " stroke-dasharray=\"5 3\"" : "");
        for (uint32_t p = 0; p < points; p++)
            fprintf(file, "%.1f,%.1f ", x_of(s, blocks[p]), y_of(s, curves[c].share[p]));
        fprintf(file, "\"/>\n");
        for (uint32_t p = 0; p < points; p++)
            fprintf(file,
                    "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s, %" PRIu64
                    ": %.2f %%</title></circle>\n",
                    x_of(s, blocks[p]), y_of(s, curves[c].share[p]), colour, curves[c].name,
                    blocks[p], 100.0 * curves[c].share[p]);
        fprintf(file,
                "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"%s\"/>"
                "<text x=\"%.1f\" y=\"%.1f\" fill=\"%s\">%s</text>\n",
                end, y_of(s, curves[c].share[points - 1]), end + 18.0, name_y[c], colour,
                end + 22.0, name_y[c] + 4.0, colour, curves[c].name);
    }
    fprintf(file, "</svg>\n");
}

anykv_status akv_replay_svg(const char *path, const char *title, const uint64_t *blocks,
                            uint32_t points, const struct akv_curve *curves, uint32_t count)
{
    struct scale s = {log((double)blocks[0]), log((double)blocks[points - 1]), 0.01};
    count = count < CURVES ? count : CURVES;
    for (uint32_t c = 0; c < count; c++)
        for (uint32_t p = 0; p < points; p++)
            s.most = curves[c].share[p] > s.most ? curves[c].share[p] : s.most;
    FILE *file = fopen(path, "w");
    if (file == NULL)
        return akv_fail(NULL, ANYKV_E_IO, "svg: \"%s\" cannot be written: %s", path,
                        strerror(errno));
    axes(file, &s, title, blocks, points);
    draw(file, &s, blocks, points, curves, count);
    const bool failed = ferror(file) != 0;
    if (fclose(file) != 0 || failed)
        return akv_fail(NULL, ANYKV_E_IO, "svg: \"%s\" cannot be written", path);
    return ANYKV_OK;
}
