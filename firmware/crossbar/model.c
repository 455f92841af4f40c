#include "model.h"

#include <stddef.h>

#include "hwtrain/perturb.h"

#define GOLDEN 0x9E3779B9u

/* CRC-32 of the names that draws have in hwtrain/draws.py and hwtrain/sim. */
enum draw {
    DRAW_FABRICATION,
    DRAW_CYCLE,
    DRAW_PULSE,
    DRAW_W_MAX,
    DRAW_W_MIN,
    DRAW_DW_MIN,
    DRAW_UP_DOWN,
};
static const uint32_t tags[] = {
    [DRAW_FABRICATION] = 0xAE0B6B7Au,
    [DRAW_CYCLE] = 0xB086D193u,
    [DRAW_PULSE] = 0x1B16CADAu,
    [DRAW_W_MAX] = 0x7C892FADu,
    [DRAW_W_MIN] = 0x408410F4u,
    [DRAW_DW_MIN] = 0xA4010B06u,
    [DRAW_UP_DOWN] = 0xAFE63A0Eu,
};

/* ---- mathematics without a library ---- */

static double root(double x) {
    uint64_t bits;
    double y;
    if (!(x > 0.0))
        return 0.0;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1FF8000000000000u;
    memcpy(&y, &bits, sizeof y);
    for (int i = 0; i < 5; i++)
        y = 0.5 * (y + x / y);
    return y;
}

static double logarithm(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int exponent = (int)(bits >> 52) - 1023;
    bits = (bits & 0x000FFFFFFFFFFFFFu) | 0x3FF0000000000000u;
    memcpy(&x, &bits, sizeof x);
    if (x > 1.4142135623730951) {
        x *= 0.5;
        exponent++;
    }
    double s = (x - 1.0) / (x + 1.0), square = s * s, sum = 0.0;
    for (int n = 23; n >= 1; n -= 2)
        sum = sum * square + 1.0 / n;
    return 2.0 * s * sum + exponent * 0.69314718055994530942;
}

/* (a + b x + c x^2 ...) of eight coefficients. */
static double polynomial(const double *c, double x) {
    double sum = c[7];
    for (int i = 6; i >= 0; i--)
        sum = sum * x + c[i];
    return sum;
}

/* The normal deviate below which a share p lies. Wichura, Applied Statistics 37, 477 (1988), algorithm AS 241, PPND16. */
static double deviate(double p) {
    static const double a[8] = {3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
                                4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3};
    static const double b[8] = {1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
                                2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3};
    static const double c[8] = {1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
                                1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2,
                                7.74545014278341407640e-4};
    static const double d[8] = {1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
                                1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4,
                                1.05075007164441684324e-9};
    static const double e[8] = {6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
                                2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5,
                                2.01033439929228813265e-7};
    static const double f[8] = {1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
                                7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7,
                                2.04426310338993978564e-15};
    double q = p - 0.5, r;
    if (q <= 0.425 && q >= -0.425) {
        r = 0.180625 - q * q;
        return q * polynomial(a, r) / polynomial(b, r);
    }
    r = root(-logarithm(q < 0.0 ? p : 1.0 - p));
    r = r <= 5.0 ? polynomial(c, r - 1.6) / polynomial(d, r - 1.6) : polynomial(e, r - 5.0) / polynomial(f, r - 5.0);
    return q < 0.0 ? -r : r;
}

/* ---- draws: hwtrain/draws.py ---- */

static uint32_t derive(uint32_t seed, uint32_t tag) {
    return hwt_mix32(hwt_mix32(seed) ^ tag);
}

static double normal(uint32_t seed, uint32_t count, uint32_t index) {
    uint32_t word = hwt_mix32(hwt_mix32(hwt_mix32(seed) ^ count) + index * GOLDEN);
    return deviate(((double)word + 0.5) / 4294967296.0);
}

static double magnitude(double x) {
    return x < 0.0 ? -x : x;
}

/* ---- devices: hwtrain/sim/pulsed.py ---- */

static uint32_t first_cell(const model_t *model, uint8_t tile) {
    uint32_t first = 0;
    for (uint8_t i = 0; i < tile; i++)
        first += (uint32_t)model->crossbar->config.tiles[i].rows * model->crossbar->config.tiles[i].columns;
    return first;
}

void model_fabricate(model_t *model) {
    const model_cell_t *cell = &model->cell;
    uint32_t made = derive(model->seed, tags[DRAW_FABRICATION]), count = first_cell(model, model->crossbar->config.tile_count);
    model->pulse_seed = derive(derive(model->seed, tags[DRAW_CYCLE]), tags[DRAW_PULSE]);
    model_safe(model);
    for (uint32_t i = 0; i < count && i < model->size; i++) {
        model_device_t *device = &model->devices[i];
        double high = cell->w_max * (1.0 + cell->w_max_dtod * normal(derive(made, tags[DRAW_W_MAX]), 0, i));
        double low = cell->w_min * (1.0 + cell->w_min_dtod * normal(derive(made, tags[DRAW_W_MIN]), 0, i));
        double step = 1.0 + cell->dw_min_dtod * normal(derive(made, tags[DRAW_DW_MIN]), 0, i);
        double apart = cell->up_down_dtod * normal(derive(made, tags[DRAW_UP_DOWN]), 0, i), up_down = cell->up_down;
        device->high = magnitude(high > low ? high : low);
        device->low = -magnitude(high > low ? low : high);
        device->up = magnitude(cell->dw_min * (step + (up_down < 0.0 ? up_down : 0.0) + apart));
        device->down = magnitude(cell->dw_min * (step - (up_down > 0.0 ? up_down : 0.0) - apart));
        device->value = 0.0;
        device->writes = 0;
    }
}

static void move(model_t *model, model_device_t *device, uint32_t index, int up) {
    double size = up ? device->up : device->down, step = size;
    if (model->cell.soft)
        step *= up ? 1.0 - device->value / device->high : 1.0 - device->value / device->low;
    double after = device->value + (up ? step : -step);
    if (model->cell.dw_min_std > 0.0)
        after += model->cell.dw_min_std * magnitude(step) * normal(model->pulse_seed, device->writes, index);
    device->writes++;
    device->value = after < device->low ? device->low : after > device->high ? device->high : after;
}

/* ---- the array side of the port ---- */

void model_safe(void *context) {
    model_t *model = context;
    model->connected = UINT32_MAX;
    model->driven = 0;
    memset(model->moves, 0, (model->size + 31u) / 32u * sizeof *model->moves);
}

int model_select(void *context, uint8_t tile, uint16_t row, uint16_t column) {
    model_t *model = context;
    model->connected = first_cell(model, tile) + (uint32_t)row * model->crossbar->config.tiles[tile].columns + column;
    return model->connected < model->size ? 0 : -1;
}

int model_pulse(void *context, float volts, float seconds) {
    model_t *model = context;
    const crossbar_config_t *facts = &model->crossbar->config;
    model->driven = 1;
    if (!(volts >= -facts->most_volts && volts <= facts->most_volts && seconds >= facts->shortest && seconds <= facts->longest))
        model->unsafe++;
    if (model->connected == UINT32_MAX)
        return -1;
    if (volts >= model->threshold || volts <= -model->threshold)
        move(model, &model->devices[model->connected], model->connected, volts > 0.0f);
    return 0;
}

static int converted(const model_t *model, double current, float *amperes) {
    int clipped = current > (double)model->most_amperes || current < -(double)model->most_amperes;
    if (clipped)
        current = current < 0.0 ? -(double)model->most_amperes : (double)model->most_amperes;
    if (model->step_amperes > 0.0f) {
        double steps = current / (double)model->step_amperes;
        current = (double)model->step_amperes * (double)(int32_t)(steps + (steps < 0.0 ? -0.5 : 0.5));
    }
    *amperes = (float)current;
    return clipped;
}

/* As it reads now, moved or not. */
static double held(const model_t *model, uint32_t cell) {
    if (model->moves[cell / 32u] == 0.0f)
        return model->devices[cell].value;
    double shift = (double)model->moves[cell / 32u] / model->scale;
    return model->devices[cell].value + (model->signs[cell / 32u] >> (cell % 32u) & 1u ? -shift : shift);
}

int model_perturb(void *context, uint32_t index, uint32_t signs, float siemens) {
    model_t *model = context;
    float most = model->crossbar->config.most_move;
    model->driven = 1;
    if (!(siemens >= -most && siemens <= most))
        model->unsafe++;
    if (index >= (model->size + 31u) / 32u)
        return -1;
    model->signs[index] = signs;
    model->moves[index] = siemens;
    return 0;
}

int model_read(void *context, float volts, float *amperes) {
    model_t *model = context;
    float most = model->crossbar->config.most_read_volts;
    model->driven = 1;
    if (!(volts >= -most && volts <= most))
        model->unsafe++;
    if (model->connected == UINT32_MAX)
        return -1;
    return converted(model, (double)volts * model->scale * held(model, model->connected), amperes);
}

int model_multiply(void *context, uint8_t tile, const float *volts, float *amperes) {
    model_t *model = context;
    const crossbar_tile_t *size = &model->crossbar->config.tiles[tile];
    const uint32_t first = first_cell(model, tile);
    const float most = model->crossbar->config.most_read_volts;
    int clipped = 0;
    model->driven = 1;
    for (uint16_t row = 0; row < size->rows; row++)
        if (!(volts[row] >= -most && volts[row] <= most))
            model->unsafe++;
    for (uint16_t column = 0; column < size->columns; column++) {
        double sum = 0.0;
        for (uint16_t row = 0; row < size->rows; row++)
            if (volts[row] != 0.0f)
                sum += (double)volts[row] * held(model, first + (uint32_t)row * size->columns + column);
        clipped |= converted(model, sum * model->scale, &amperes[column]);
    }
    return clipped;
}

/* ---- its own commands ---- */

static model_t *model_of(const crossbar_t *crossbar) {
    return crossbar->config.port->context;
}

/* seed, soft, dw_min, dw_min_dtod, dw_min_std, up_down, up_down_dtod, w_max, w_max_dtod, w_min, w_min_dtod, scale: new devices. */
static int run_cell(scpi_t *scpi) {
    model_t *model = model_of(crossbar_of(scpi));
    uint32_t seed;
    uint8_t soft;
    double values[10];
    int error = scpi_whole(scpi, 0.0, 4294967295.0, &seed);
    if (error || (error = scpi_flag(scpi, &soft)) != 0)
        return error;
    for (int i = 0; i < 10; i++)
        if ((error = scpi_number(scpi, &values[i])) != 0)
            return error;
    if (crossbar_of(scpi)->skip)
        return SCPI_OK;
    if (!(values[0] > 0.0 && values[5] >= 0.0 && values[7] <= 0.0 && values[9] > 0.0))
        return SCPI_RANGE;
    model->seed = seed;
    model->cell = (model_cell_t){.soft = soft, .dw_min = values[0], .dw_min_dtod = values[1], .dw_min_std = values[2],
                                 .up_down = values[3], .up_down_dtod = values[4], .w_max = values[5], .w_max_dtod = values[6],
                                 .w_min = values[7], .w_min_dtod = values[8]};
    model->scale = values[9];
    model_fabricate(model);
    return SCPI_OK;
}

/* rows, columns of every tile: new devices. */
static int run_tiles(scpi_t *scpi) {
    crossbar_t *crossbar = crossbar_of(scpi);
    crossbar_tile_t tiles[CROSSBAR_TILES];
    uint8_t count = 0;
    do {
        uint32_t rows, columns;
        int error = scpi_whole(scpi, 1.0, 65535.0, &rows);
        if (error || (error = scpi_whole(scpi, 1.0, 65535.0, &columns)) != 0)
            return error;
        if (count == CROSSBAR_TILES)
            return SCPI_TOO_MUCH;
        tiles[count++] = (crossbar_tile_t){(uint16_t)rows, (uint16_t)columns};
    } while (scpi_more(scpi));
    if (crossbar->skip)
        return SCPI_OK;
    if (crossbar_lay_out(crossbar, tiles, count))
        return SCPI_RANGE;
    model_fabricate(model_of(crossbar));
    return SCPI_OK;
}

/* One step of the converter, and what it takes either way [A]. */
static int run_converter(scpi_t *scpi) {
    model_t *model = model_of(crossbar_of(scpi));
    double step, most;
    int error = scpi_number(scpi, &step);
    if (error || (error = scpi_number(scpi, &most)) != 0)
        return error;
    if (!(step >= 0.0 && most > 0.0 && most <= 10.0 && (step == 0.0 || most / step < 2147483647.0)))
        return SCPI_RANGE;
    model->step_amperes = (float)step;
    model->most_amperes = (float)most;
    return SCPI_OK;
}

/* Has anything been driven since all was made safe, and how often was something asked for that the board forbids? */
static int ask_driven(scpi_t *scpi) {
    const model_t *model = model_of(crossbar_of(scpi));
    scpi_say_whole(scpi, model->driven);
    scpi_say_whole(scpi, (int32_t)model->unsafe);
    return SCPI_OK;
}

const scpi_command_t model_commands[] = {
    {"MODel:CELL", run_cell}, {"MODel:TILes", run_tiles}, {"MODel:CONVerter", run_converter}, {"MODel:DRIVen?", ask_driven},
    {NULL, NULL},
};
