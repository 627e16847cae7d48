/* SPDX-License-Identifier: Apache-2.0 */
/* A chart of bits against divergence as SVG. */
#include "program.h"
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { WIDTH = 640, HEIGHT = 420, LEFT = 70, RIGHT = 600, TOP = 40, BOTTOM = 360 };

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (*text == '<' || *text == '>' || *text == '&' || (unsigned char)*text < ' ')
            fprintf(out, "&#%d;", (unsigned char)*text < ' ' ? ' ' : *text);
        else
            fputc(*text, out);
    }
}

int chart_write(const char *path, const struct point *points, uint32_t count, const char *title)
{
    double most_bits = 1.0, least = 1.0, most = 1e-9;
    for (uint32_t i = 0; i < count; i++) {
        double kld = points[i].divergence > 1e-9 ? points[i].divergence : 1e-9;
        most_bits = points[i].bits > most_bits ? points[i].bits : most_bits;
        least = kld < least ? kld : least;
        most = kld > most ? kld : most;
    }
    int low = (int)floor(log10(least)), high = (int)ceil(log10(most));
    high = high > low ? high : low + 1;
    FILE *out = fopen(path, "w");
    if (!out)
        return fail("%s: %s", path, strerror(errno));
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
            "font-family=\"sans-serif\" "
            "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
            "<text x=\"%d\" y=\"24\">",
            WIDTH, HEIGHT, LEFT);
    put_text(out, title);
    fputs(": KL divergence of the next token over bits per element</text>\n", out);
    for (int decade = low; decade <= high; decade++) {
        double y = BOTTOM - (BOTTOM - TOP) * (double)(decade - low) / (high - low);
        fprintf(out,
                "<path d=\"M%d %.1fH%d\" stroke=\"#ccc\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">1e%d</text>\n",
                LEFT, y, RIGHT, LEFT - 6, y + 4, decade);
    }
    double step = most_bits > 16 ? 4 : 2;
    for (double bits = 0; bits <= most_bits + 0.5; bits += step) {
        double x = LEFT + (RIGHT - LEFT) * bits / (most_bits + 0.5);
        fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", x,
                BOTTOM + 18, bits);
    }
    for (uint32_t i = 0; i < count; i++) {
        double kld = points[i].divergence > 1e-9 ? points[i].divergence : 1e-9;
        double x = LEFT + (RIGHT - LEFT) * points[i].bits / (most_bits + 0.5);
        double y = BOTTOM - (BOTTOM - TOP) * (log10(kld) - low) / (high - low);
        fprintf(
            out,
            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"#246\"/><text x=\"%.1f\" y=\"%.1f\">",
            x, y, x + 7, y + 4);
        put_text(out, points[i].name);
        fputs("</text>\n", out);
    }
    fprintf(
        out,
        "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">bits per element at this context</text>\n"
        "</svg>\n",
        (LEFT + RIGHT) / 2, BOTTOM + 40);
    int bad = ferror(out);
    return (fclose(out) != 0 || bad) ? fail("%s: not written: %s", path, strerror(errno)) : 0;
}
