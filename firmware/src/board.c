/* Requests in, replies out; every request numbered, carried out once, and answered as often as it is asked. */
#include "hwtrain/board.h"

#define STATUS HWT_HEADER        /* offset of a reply's status byte */
#define PAYLOAD (HWT_HEADER + 1u) /* and of what follows it */

/* A request being carried out. Handlers return HWT_OK and set `length`, or return a status and set `detail`. */
typedef struct request {
    const uint8_t *payload;
    uint16_t count; /* bytes of payload */
    uint8_t *reply; /* where the reply's payload goes */
    uint32_t room;  /* bytes there */
    uint16_t length;
    uint32_t detail;
} request_t;

static uint8_t refuse(request_t *request, uint8_t status, uint32_t detail) {
    request->detail = detail;
    return status;
}

/* ---- identity ------------------------------------------------------------------------------------------------------ */

static uint16_t describe_network(const hwt_board_t *board, uint8_t *bytes) {
    const hwt_network_t *network = &board->network;
    bytes[0] = network->cost;
    bytes[1] = network->count;
    hwt_put16(bytes + 2, network->inputs);
    hwt_put_float(bytes + 4, board->low);
    hwt_put_float(bytes + 8, board->high);
    for (uint8_t l = 0; l < network->count; l++) {
        hwt_put16(bytes + 12u + 4u * l, network->layers[l].outputs);
        bytes[14u + 4u * l] = network->layers[l].activation;
        bytes[15u + 4u * l] = network->layers[l].form;
    }
    return (uint16_t)(12u + 4u * network->count);
}

static uint8_t hello(const hwt_board_t *board, request_t *request) {
    const hwt_config_t *config = board->config;
    uint8_t *reply = request->reply, length = 0;
    uint32_t can = HWT_CAN_COST | HWT_CAN_OUTPUT | HWT_CAN_ACTIVITY | HWT_CAN_PROBE | HWT_CAN_UPDATE | HWT_CAN_TRAIN;
    reply[0] = HWT_PROTOCOL;
    reply[1] = HWT_FIRMWARE_MAJOR;
    reply[2] = HWT_FIRMWARE_MINOR;
    reply[3] = HWT_FIRMWARE_PATCH;
    hwt_put32(reply + 4, board->boot);
    hwt_put16(reply + 8, board->expected);
    hwt_put16(reply + 10, config->receive_size);
    hwt_put16(reply + 12, config->reply_size);
    hwt_put16(reply + 14, config->ring);
    can |= (HWT_LOCAL_RULES ? (uint32_t)HWT_CAN_LEARN : 0u) | (config->port->reset ? (uint32_t)HWT_CAN_RESET : 0u);
#if HWT_STREAMS
    can |= HWT_CAN_STREAM;
#endif
    hwt_put32(reply + 16, can);
    hwt_put32(reply + 20, config->theta_size);
    hwt_put32(reply + 24, config->samples_size);
    hwt_put16(reply + 28, config->work_size);
    reply[30] = HWT_LAYERS_MAX;
    reply[31] = config->window;
    hwt_put32(reply + 32, board->watchdog);
    while (length < 31 && config->name[length])
        length++;
    reply[36] = length;
    for (uint8_t i = 0; i < length; i++)
        reply[37u + i] = (uint8_t)config->name[i];
    request->length = (uint16_t)(37u + length + describe_network(board, reply + 37 + length));
    return HWT_OK;
}

static uint8_t adopt(hwt_board_t *board, request_t *request) {
    uint32_t previous, next;
    if (request->count != 8)
        return refuse(request, HWT_BAD_LENGTH, 8);
    previous = hwt_get32(request->payload);
    next = hwt_get32(request->payload + 4);
    if (next == 0)
        return refuse(request, HWT_BAD_VALUE, 4);
    if (board->boot != next) { /* else a repeat, which must not disturb what has begun since */
        if (board->boot != previous)
            return refuse(request, HWT_BAD_BOOT, board->boot);
        board->boot = next;
        board->expected = 0;
        board->kept = 0;
    }
    hwt_put32(request->reply, board->boot);
    hwt_put16(request->reply + 4, board->expected);
    request->length = 6;
    return HWT_OK;
}

/* ---- network, parameters, samples ------------------------------------------------------------------------------------ */

/* What is behind the parameters changes hands: neurons do not go on from it. */
static void stop_streaming(hwt_board_t *board) {
#if HWT_STREAMS
    board->streaming = 0;
#else
    (void)board;
#endif
}

/* Floats that may be written and read: the parameters, and class matrices if there is room for them. */
static uint32_t held(const hwt_board_t *board) {
    uint32_t classes = HWT_LOCAL_RULES ? hwt_classes_size(&board->network) : 0u;
    return board->size + (classes <= board->config->theta_size - board->size ? classes : 0u);
}

static uint8_t set_network(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    const hwt_config_t *config = board->config;
    hwt_network_t network;
    uint32_t size = 0;
    if (request->count < 12 || request->count != 12u + 4u * bytes[1])
        return refuse(request, HWT_BAD_LENGTH, 12u + 4u * (request->count < 2 ? 1u : bytes[1]));
    network.cost = bytes[0];
    network.count = bytes[1];
    network.inputs = hwt_get16(bytes + 2);
    float low = hwt_get_float(bytes + 4), high = hwt_get_float(bytes + 8);
    if (network.cost > HWT_CROSS_ENTROPY)
        return refuse(request, HWT_BAD_VALUE, 0);
    if (network.count == 0)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (network.count > HWT_LAYERS_MAX)
        return refuse(request, HWT_NO_ROOM, HWT_LAYERS_MAX);
    if (network.inputs == 0)
        return refuse(request, HWT_BAD_VALUE, 2);
    if (!(low < high)) /* NaN too */
        return refuse(request, HWT_BAD_VALUE, 4);
    uint16_t inputs = network.inputs;
    for (uint8_t l = 0; l < network.count; l++) {
        hwt_layer_t *layer = &network.layers[l];
        layer->outputs = hwt_get16(bytes + 12u + 4u * l);
        layer->activation = bytes[14u + 4u * l];
        layer->form = bytes[15u + 4u * l];
        if (layer->outputs == 0)
            return refuse(request, HWT_BAD_VALUE, 12u + 4u * l);
        if (layer->activation > HWT_STEP)
            return refuse(request, HWT_BAD_VALUE, 14u + 4u * l);
        if (((layer->form >> 1) & 3u) > HWT_NORMALISE_RMS || layer->form >= (HWT_STREAMS ? 2 : 1) * HWT_RECURRENT)
            return refuse(request, HWT_BAD_VALUE, 15u + 4u * l);
        uint32_t rows = hwt_rows(layer, inputs) + 1u;
        if (rows > (config->theta_size - size) / layer->outputs)
            return refuse(request, HWT_NO_ROOM, config->theta_size);
        size += rows * layer->outputs;
        inputs = layer->outputs;
    }
    if (hwt_workspace_size(&network) > config->work_size)
        return refuse(request, HWT_NO_ROOM, config->work_size);
    if ((uint32_t)network.inputs + hwt_outputs(&network) > config->samples_size)
        return refuse(request, HWT_NO_ROOM, config->samples_size);
    board->network = network;
    board->size = size;
    stop_streaming(board);
    board->low = low;
    board->high = high;
    size = held(board);
    for (uint32_t i = 0; i < size; i++)
        config->theta[i] = 0.0f;
    for (uint32_t i = 0; i < config->samples_size; i++)
        config->samples[i] = 0.0f;
    board->largest = hwt_clip(config->theta, board->size, low, high);
    hwt_workspace_init(&board->work, &board->network, config->work);
    hwt_put32(request->reply, board->size);
    request->length = 4;
    return HWT_OK;
}

static uint8_t write_parameters(hwt_board_t *board, request_t *request) {
    const uint8_t *values = request->payload + 4;
    if (request->count < 8 || request->count % 4u)
        return refuse(request, HWT_BAD_LENGTH, 8);
    uint32_t offset = hwt_get32(request->payload), most = held(board);
    uint16_t count = (uint16_t)(request->count / 4u - 1u);
    if (offset > most || count > most - offset)
        return refuse(request, HWT_NO_ROOM, most);
    for (uint16_t i = 0; i < count; i++) { /* all or nothing */
        float value = hwt_get_float(values + 4u * i);
        uint8_t limited = offset + i < board->size; /* class matrices are not */
        if (!hwt_is_finite(values + 4u * i) || (limited && (value < board->low || value > board->high)))
            return refuse(request, HWT_BAD_RANGE, offset + i);
    }
    if (offset + count > board->size)
        stop_streaming(board);
    for (uint16_t i = 0; i < count; i++) {
        float value = hwt_get_float(values + 4u * i), magnitude = value < 0.0f ? -value : value;
        board->config->theta[offset + i] = value;
        if (offset + i < board->size && magnitude > board->largest)
            board->largest = magnitude;
    }
    return HWT_OK;
}

static uint8_t read_parameters(const hwt_board_t *board, request_t *request) {
    if (request->count != 6)
        return refuse(request, HWT_BAD_LENGTH, 6);
    uint32_t offset = hwt_get32(request->payload), most = held(board);
    uint16_t count = hwt_get16(request->payload + 4);
    if (offset > most || count > most - offset)
        return refuse(request, HWT_NO_ROOM, most);
    if ((uint32_t)count * 4u > request->room)
        return refuse(request, HWT_NO_ROOM, request->room / 4u);
    for (uint16_t i = 0; i < count; i++)
        hwt_put_float(request->reply + 4u * i, board->config->theta[offset + i]);
    request->length = (uint16_t)(4u * count);
    return HWT_OK;
}

static uint8_t digest(const hwt_board_t *board, request_t *request) {
    uint32_t crc = 0, count = board->size;
    uint8_t bytes[4];
    if (request->count == 4)
        count = hwt_get32(request->payload);
    else if (request->count)
        return refuse(request, HWT_BAD_LENGTH, 0);
    if (count > held(board))
        return refuse(request, HWT_NO_ROOM, held(board));
    for (uint32_t i = 0; i < count; i++) {
        hwt_put_float(bytes, board->config->theta[i]);
        crc = hwt_crc32(crc, bytes, 4);
    }
    hwt_put32(request->reply, count);
    hwt_put32(request->reply + 4, crc);
    request->length = 8;
    return HWT_OK;
}

static uint32_t sample_length(const hwt_board_t *board) {
    return (uint32_t)board->network.inputs + hwt_outputs(&board->network);
}

/* Are slots [slot, slot + batch) there? */
static uint8_t has_slots(const hwt_board_t *board, uint16_t slot, uint16_t batch) {
    return batch > 0 && (uint32_t)slot + batch <= board->config->samples_size / sample_length(board);
}

static uint8_t store_sample(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    if (request->count < 8)
        return refuse(request, HWT_BAD_LENGTH, 8);
    uint16_t slot = hwt_get16(bytes), count = (uint16_t)(request->count - 8u);
    uint8_t format = bytes[2];
    uint32_t offset = hwt_get32(bytes + 4), length = sample_length(board);
    if (format > HWT_UINT8)
        return refuse(request, HWT_BAD_VALUE, 2);
    if (format == HWT_FLOAT32) {
        if (count % 4u)
            return refuse(request, HWT_BAD_LENGTH, 8u + (count & ~3u));
        count /= 4u;
    }
    if (!has_slots(board, slot, 1))
        return refuse(request, HWT_NO_ROOM, board->config->samples_size / length);
    if (offset > length || count > length - offset)
        return refuse(request, HWT_NO_ROOM, length);
    bytes += 8;
    if (format == HWT_FLOAT32)
        for (uint16_t i = 0; i < count; i++)
            if (!hwt_is_finite(bytes + 4u * i))
                return refuse(request, HWT_BAD_VALUE, 8u + 4u * i);
    float *values = board->config->samples + slot * length + offset;
    for (uint16_t i = 0; i < count; i++)
        values[i] = format == HWT_FLOAT32 ? hwt_get_float(bytes + 4u * i) : (float)bytes[i] / 255.0f;
    return HWT_OK;
}

/* ---- measuring and learning --------------------------------------------------------------------------------------------- */

/* The code in a request; returns 0 where a field is not allowed, with its offset in `detail`. */
static uint8_t get_code(request_t *request, hwt_code_t *code, uint8_t kind, uint8_t hold, uint8_t seed, uint8_t amplitude) {
    const uint8_t *bytes = request->payload;
    code->kind = bytes[kind];
    code->hold = hwt_get16(bytes + hold);
    code->seed = hwt_get32(bytes + seed);
    code->amplitude = amplitude ? hwt_get_float(bytes + amplitude) : 0.0f;
    request->detail = kind;
    if ((code->kind & (uint8_t)~HWT_ANTITHETIC) > HWT_WALSH_TWO_SIDED)
        return 0;
    request->detail = hold;
    if (code->hold == 0)
        return 0;
    request->detail = amplitude;
    return amplitude == 0 || hwt_is_finite(bytes + amplitude);
}

/* MEASURE: a plain measurement, k perturbed ones, or both, of a batch of stored samples. */
static uint8_t measure(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    const hwt_network_t *network = &board->network;
    const float *theta = board->config->theta;
    hwt_workspace_t *work = &board->work;
    hwt_code_t code;
    if (request->count != 24)
        return refuse(request, HWT_BAD_LENGTH, 24);
    uint8_t observe = bytes[0], plain = bytes[1];
    uint16_t slot = hwt_get16(bytes + 4), batch = hwt_get16(bytes + 6), probes = hwt_get16(bytes + 10);
    uint32_t first = hwt_get32(bytes + 16), values, length;
    if (observe == 0 || observe > (HWT_COST | HWT_OUTPUT | HWT_ACTIVITY))
        return refuse(request, HWT_BAD_VALUE, 0);
    if (plain > 1 || plain + probes == 0)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (!get_code(request, &code, 2, 8, 12, 20))
        return HWT_BAD_VALUE;
    if (!has_slots(board, slot, batch))
        return refuse(request, HWT_NO_ROOM, board->config->samples_size / sample_length(board));
    if (first > UINT32_MAX - probes)
        return refuse(request, HWT_BAD_VALUE, 16);
    uint32_t measurements = (uint32_t)plain + probes, outputs = hwt_outputs(network), nodes = hwt_nodes(network);
    values = ((observe & HWT_OUTPUT) ? outputs : 0u) + ((observe & HWT_ACTIVITY) ? nodes : 0u);
    length = request->room / 4u; /* room for floats; divide rather than multiply what the host sent */
    if (measurements > length)
        return refuse(request, HWT_NO_ROOM, length);
    length -= (observe & HWT_COST) ? measurements : 0u;
    if (values && (uint32_t)batch * values > length / measurements)
        return refuse(request, HWT_NO_ROOM, length / measurements);

    uint8_t *costs = request->reply, *records = costs + ((observe & HWT_COST) ? 4u * measurements : 0u);
    for (uint16_t b = 0; b < batch; b++) {
        const float *x = hwt_sample(board, (uint16_t)(slot + b)), *target = x + network->inputs;
        hwt_present(network, theta, x, work);
        for (uint32_t k = 0; k < measurements; k++) {
            hwt_pattern_t pattern;
            uint8_t perturbed = !(plain && k == 0);
            if (perturbed)
                hwt_pattern_at(&pattern, &code, first + k - plain, board->size);
            float cost = hwt_pass(network, theta, x, target, perturbed ? &pattern : 0, code.amplitude, work);
            if (observe & HWT_COST) { /* the sum so far lives in the reply */
                cost += b ? hwt_get_float(costs + 4u * k) : 0.0f;
                hwt_put_float(costs + 4u * k, b + 1u == batch ? cost / (float)batch : cost);
            }
            uint8_t *record = records + 4u * values * (k * batch + b);
            const float *shown = work->activity + ((observe & HWT_ACTIVITY) ? 0u : nodes - outputs);
            uint32_t count = (observe & HWT_ACTIVITY) ? nodes : values;
            for (uint32_t j = 0; j < count; j++)
                hwt_put_float(record + 4u * j, shown[j]);
        }
    }
    request->length = (uint16_t)(((observe & HWT_COST) ? 4u * measurements : 0u) + 4u * values * measurements * batch);
    return HWT_OK;
}

/* Limits of an update: at the offset, within those of the network. */
static uint8_t limits_allowed(const hwt_board_t *board, const uint8_t *bytes) {
    float low = hwt_get_float(bytes), high = hwt_get_float(bytes + 4);
    return low >= board->low && high <= board->high && low < high;
}

/* UPDATE: theta <- clip(theta - sum over k of rate * modulation_k * sign_k). */
static uint8_t update(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    hwt_code_t code;
    if (request->count < 28 || request->count % 4u)
        return refuse(request, HWT_BAD_LENGTH, 28);
    if (!get_code(request, &code, 0, 2, 4, 0))
        return HWT_BAD_VALUE;
    if (bytes[1] > 1)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (!hwt_is_finite(bytes + 12))
        return refuse(request, HWT_BAD_VALUE, 12);
    if (!limits_allowed(board, bytes + 16))
        return refuse(request, HWT_BAD_VALUE, 16);
    if (hwt_get32(bytes + 8) > UINT32_MAX - request->count)
        return refuse(request, HWT_BAD_VALUE, 8);
    hwt_modulations_t modulations = {bytes + 24, 4, (uint16_t)(request->count / 4u - 6u), hwt_get_float(bytes + 12)};
    hwt_apply(board, &code, hwt_get32(bytes + 8), &modulations, hwt_get_float(bytes + 16), hwt_get_float(bytes + 20), bytes[1]);
    return HWT_OK;
}

/* TRAIN: a block of steps of multiplexed gradient descent. */
static uint8_t train(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    hwt_block_t block;
    if (request->count < 38)
        return refuse(request, HWT_BAD_LENGTH, 38);
    if (!get_code(request, &block.code, 0, 2, 12, 20))
        return HWT_BAD_VALUE;
    block.baseline = bytes[1];
    block.tau_x = hwt_get16(bytes + 4);
    block.tau_theta = hwt_get16(bytes + 6);
    block.ticks = hwt_get16(bytes + 8);
    block.batch = hwt_get16(bytes + 10);
    block.first = hwt_get32(bytes + 16);
    block.rate = hwt_get_float(bytes + 24);
    block.low = hwt_get_float(bytes + 28);
    block.high = hwt_get_float(bytes + 32);
    block.slots = bytes + 36;
    if (block.baseline > HWT_BASELINE_FRESH)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (block.tau_x == 0)
        return refuse(request, HWT_BAD_VALUE, 4);
    if (block.tau_theta == 0 || block.first % block.tau_theta)
        return refuse(request, HWT_BAD_VALUE, 6);
    if (block.ticks == 0 || block.ticks % block.tau_theta || block.first > UINT32_MAX - block.ticks)
        return refuse(request, HWT_BAD_VALUE, 8);
    if (!hwt_is_finite(bytes + 24))
        return refuse(request, HWT_BAD_VALUE, 24);
    if (!limits_allowed(board, bytes + 28))
        return refuse(request, HWT_BAD_VALUE, 28);
    if (8u * (uint32_t)block.ticks > request->room)
        return refuse(request, HWT_NO_ROOM, request->room / 8u);
    uint32_t presentations = (block.first + block.ticks - 1u) / block.tau_x - block.first / block.tau_x + 1u;
    if (request->count - 36u != 2u * presentations)
        return refuse(request, HWT_BAD_LENGTH, 36u + 2u * presentations);
    for (uint32_t i = 0; i < presentations; i++)
        if (!has_slots(board, hwt_get16(block.slots + 2u * i), block.batch))
            return refuse(request, HWT_NO_ROOM, board->config->samples_size / sample_length(board));
    hwt_train(board, &block, request->reply);
    request->length = (uint16_t)(8u * block.ticks);
    return HWT_OK;
}

#if HWT_LOCAL_RULES
/* LEARN: a block of updates of a local rule. */
static uint8_t learn(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    const hwt_config_t *config = board->config;
    hwt_lesson_t lesson;
    if (request->count < 28)
        return refuse(request, HWT_BAD_LENGTH, 28);
    lesson.rule = bytes[0];
    lesson.goodness = bytes[1];
    lesson.batch = hwt_get16(bytes + 2);
    lesson.updates = hwt_get16(bytes + 4);
    lesson.rate = hwt_get_float(bytes + 8);
    lesson.readout_rate = hwt_get_float(bytes + 12);
    lesson.scale = hwt_get_float(bytes + 16);
    lesson.low = hwt_get_float(bytes + 20);
    lesson.high = hwt_get_float(bytes + 24);
    lesson.slots = bytes + 28;
    if (lesson.rule > HWT_MONO_FORWARD || !hwt_can_learn(&board->network, lesson.rule))
        return refuse(request, HWT_BAD_VALUE, 0);
    if (lesson.goodness > HWT_GOODNESS_MEAN)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (lesson.updates == 0)
        return refuse(request, HWT_BAD_VALUE, 4);
    for (uint8_t at = 8; at < 20; at = (uint8_t)(at + 4u))
        if (!hwt_is_finite(bytes + at))
            return refuse(request, HWT_BAD_VALUE, at);
    if (!limits_allowed(board, bytes + 20))
        return refuse(request, HWT_BAD_VALUE, 20);
    if (4u * (uint32_t)lesson.updates > request->room)
        return refuse(request, HWT_NO_ROOM, request->room / 4u);
    uint32_t labels = lesson.rule == HWT_MONO_FORWARD ? 0u : (uint32_t)lesson.updates * lesson.batch;
    uint32_t length = 28u + 2u * (uint32_t)lesson.updates;
    if (request->count < length || request->count - length != labels)
        return refuse(request, HWT_BAD_LENGTH, length + labels);
    lesson.wrong = bytes + length;
    for (uint16_t u = 0; u < lesson.updates; u++)
        if (!has_slots(board, hwt_get16(lesson.slots + 2u * u), lesson.batch))
            return refuse(request, HWT_NO_ROOM, config->samples_size / sample_length(board));
    for (uint32_t i = 0; i < labels; i++)
        if (lesson.wrong[i] >= hwt_outputs(&board->network))
            return refuse(request, HWT_BAD_VALUE, length + i);
    if (hwt_learn_work_size(&board->network, lesson.rule, lesson.batch) > config->work_size)
        return refuse(request, HWT_NO_ROOM, config->work_size);
    if (lesson.rule == HWT_MONO_FORWARD && hwt_classes_size(&board->network) > config->theta_size - board->size)
        return refuse(request, HWT_NO_ROOM, config->theta_size);
    if (lesson.rule == HWT_MONO_FORWARD)
        stop_streaming(board);
    hwt_learn(board, &lesson, request->reply);
    request->length = (uint16_t)(4u * lesson.updates);
    return HWT_OK;
}
#endif

#if HWT_STREAMS
/* STREAM: steps of a sequence, which goes on where the last one ended. */
static uint8_t stream(hwt_board_t *board, request_t *request) {
    const uint8_t *bytes = request->payload;
    const hwt_config_t *config = board->config;
    const hwt_network_t *network = &board->network;
    const uint32_t seeds = 52u + 4u * (network->count - 1u);
    const uint8_t given = request->count && (bytes[0] & HWT_STREAM_MEAN);
    const uint32_t length = seeds + (given ? 4u * (hwt_outputs(network) + 1u) : 0u);
    hwt_stream_t stream;
    if (request->count != length)
        return refuse(request, HWT_BAD_LENGTH, length);
    stream.flags = bytes[0];
    stream.reset = bytes[1];
    stream.signal = bytes[2];
    stream.shape = bytes[3];
    stream.slot = hwt_get16(bytes + 4);
    stream.steps = hwt_get16(bytes + 6);
    stream.decay = hwt_get_float(bytes + 8);
    stream.threshold = hwt_get_float(bytes + 12);
    stream.slope = hwt_get_float(bytes + 16);
    stream.height = hwt_get_float(bytes + 20);
    stream.readout_decay = hwt_get_float(bytes + 24);
    stream.readout_gain = hwt_get_float(bytes + 28);
    stream.rate = hwt_get_float(bytes + 32);
    stream.readout_rate = hwt_get_float(bytes + 36);
    stream.scale = hwt_get_float(bytes + 40);
    stream.low = hwt_get_float(bytes + 44);
    stream.high = hwt_get_float(bytes + 48);
    stream.seeds = bytes + 52;
    stream.sums = given ? bytes + seeds : 0;
    if (stream.flags >= 2 * HWT_STREAM_MEAN ||
        !(board->streaming || (stream.flags & HWT_STREAM_START)) || !hwt_can_stream(network))
        return refuse(request, HWT_BAD_VALUE, 0);
    if (stream.reset > HWT_RESET_SOFT)
        return refuse(request, HWT_BAD_VALUE, 1);
    if (stream.signal > HWT_SIGNAL_ERROR)
        return refuse(request, HWT_BAD_VALUE, 2);
    if (stream.shape > HWT_SHAPE_TRIANGLE)
        return refuse(request, HWT_BAD_VALUE, 3);
    for (uint8_t at = 8; at < 44; at = (uint8_t)(at + 4u))
        if (!hwt_is_finite(bytes + at))
            return refuse(request, HWT_BAD_VALUE, at);
    if (!limits_allowed(board, bytes + 44))
        return refuse(request, HWT_BAD_VALUE, 44);
    for (uint32_t at = seeds; at < length; at += 4u)
        if (!hwt_is_finite(bytes + at))
            return refuse(request, HWT_BAD_VALUE, at);
    if (!has_slots(board, stream.slot, stream.steps))
        return refuse(request, HWT_NO_ROOM, config->samples_size / sample_length(board));
    uint32_t values = 1u + ((stream.flags & HWT_STREAM_ACTIVITY) ? hwt_nodes(network) : 0u), room = request->room / 4u;
    if (stream.steps > room / values)
        return refuse(request, HWT_NO_ROOM, room / values);
    if (hwt_stream_work_size(network) > config->work_size)
        return refuse(request, HWT_NO_ROOM, config->work_size);
    if (hwt_stream_size(network) > config->theta_size - board->size)
        return refuse(request, HWT_NO_ROOM, config->theta_size);
    hwt_stream_run(board, &stream, request->reply);
    request->length = (uint16_t)(4u * stream.steps * values);
    return HWT_OK;
}
#endif

/* ---- housekeeping ----------------------------------------------------------------------------------------------------- */

static uint8_t counters(hwt_board_t *board, request_t *request) {
    const hwt_port_t *port = board->config->port;
    uint8_t *reply = request->reply;
    hwt_put32(reply, board->counters.executed);
    hwt_put32(reply + 4, board->counters.repeated);
    hwt_put32(reply + 8, board->counters.refused);
    hwt_put32(reply + 12, board->counters.damaged);
    hwt_put32(reply + 16, board->counters.rests);
    hwt_put32(reply + 20, port->overruns ? port->overruns(port->context) : 0u);
    hwt_put32(reply + 24, port->stack_free ? port->stack_free(port->context) : UINT32_MAX);
    request->length = 28;
    return HWT_OK;
}

static uint8_t execute(hwt_board_t *board, uint8_t kind, request_t *request) {
    const hwt_port_t *port = board->config->port;
    if (((kind >= HWT_WRITE && kind <= HWT_TRAIN) || (HWT_LOCAL_RULES && kind == HWT_LEARN) ||
         (HWT_STREAMS && kind == HWT_STREAM)) && board->network.count == 0)
        return refuse(request, HWT_NO_NETWORK, 0);
#if HWT_STREAMS
    if ((kind == HWT_MEASURE || kind == HWT_TRAIN || kind == HWT_LEARN) && hwt_recurrent(&board->network))
        return refuse(request, HWT_BAD_VALUE, 0); /* which take no time */
#endif
    switch (kind) {
    case HWT_NETWORK:
        return set_network(board, request);
    case HWT_WRITE:
        return write_parameters(board, request);
    case HWT_READ:
        return read_parameters(board, request);
    case HWT_DIGEST:
        return digest(board, request);
    case HWT_SAMPLE:
        return store_sample(board, request);
    case HWT_MEASURE:
        return measure(board, request);
    case HWT_UPDATE:
        return update(board, request);
    case HWT_TRAIN:
        return train(board, request);
#if HWT_LOCAL_RULES
    case HWT_LEARN:
        return learn(board, request);
#endif
#if HWT_STREAMS
    case HWT_STREAM:
        return stream(board, request);
#endif
    case HWT_REST:
    case HWT_RESET:
        port->rest(port->context);
        return HWT_OK;
    case HWT_WATCHDOG:
        if (request->count != 4)
            return refuse(request, HWT_BAD_LENGTH, 4);
        board->watchdog = hwt_get32(request->payload);
        return HWT_OK;
    case HWT_COUNTERS:
        return counters(board, request);
    default:
        return refuse(request, HWT_BAD_KIND, kind);
    }
}

/* ---- replies ------------------------------------------------------------------------------------------------------------ */

/* Put header and status in front of a payload, or the detail in its place. Returns the length of the reply. */
static uint16_t seal(const hwt_board_t *board, uint8_t *reply, const uint8_t *frame, uint8_t status, const request_t *request) {
    uint16_t length = request->length;
    reply[0] = HWT_PROTOCOL;
    reply[1] = (uint8_t)(frame[1] | HWT_REPLY);
    hwt_put16(reply + 2, hwt_get16(frame + 2));
    hwt_put32(reply + 4, board->boot);
    reply[STATUS] = status;
    if (status != HWT_OK) {
        hwt_put32(reply + PAYLOAD, request->detail);
        length = 4;
    }
    return (uint16_t)(PAYLOAD + length);
}

static void send(const hwt_board_t *board, uint8_t *reply, uint16_t length) {
    hwt_encode(reply, length, board->config->port->write, board->config->port->context);
}

/* A kept reply begins with its length, two bytes. */
static uint8_t *kept_reply(const hwt_board_t *board, uint16_t sequence) {
    const hwt_config_t *config = board->config;
    return config->replies + (uint32_t)(sequence % config->window) * config->reply_size;
}

static void answer_numbered(hwt_board_t *board, const uint8_t *frame, uint16_t length) {
    uint8_t *slot = kept_reply(board, board->expected), *reply = slot + 2;
    request_t request = {frame + HWT_HEADER, (uint16_t)(length - HWT_HEADER), reply + PAYLOAD,
                         board->config->reply_size - 2u - PAYLOAD - 4u, 0, 0};
    uint8_t status = execute(board, frame[1], &request);
    board->counters.executed++;
    board->expected++;
    if (board->kept < board->config->window)
        board->kept++;
    hwt_put16(slot, seal(board, reply, frame, status, &request));
    send(board, reply, hwt_get16(slot));
    if (frame[1] == HWT_RESET && board->config->port->reset)
        board->config->port->reset(board->config->port->context);
}

/* Everything that is answered without touching a kept reply; the reply takes the place of the request. */
static void answer_here(hwt_board_t *board, uint8_t *frame, uint16_t length) {
    request_t request = {frame + HWT_HEADER, (uint16_t)(length - HWT_HEADER), frame + PAYLOAD, 0, 0, 0};
    uint8_t status;
    if (frame[0] != HWT_PROTOCOL)
        status = refuse(&request, HWT_BAD_VERSION, HWT_PROTOCOL);
    else if (frame[1] == HWT_HELLO)
        status = hello(board, &request);
    else if (frame[1] == HWT_ADOPT)
        status = adopt(board, &request);
    else if (hwt_get32(frame + 4) != board->boot || board->boot == 0)
        status = refuse(&request, HWT_BAD_BOOT, board->boot);
    else
        status = refuse(&request, HWT_BAD_SEQUENCE, board->expected);
    if (status != HWT_OK)
        board->counters.refused++;
    send(board, frame, seal(board, frame, frame, status, &request));
}

static void answer(hwt_board_t *board, uint16_t length) {
    uint8_t *frame = board->decoder.buffer;
    uint16_t behind = (uint16_t)(board->expected - hwt_get16(frame + 2));
    uint8_t numbered = frame[0] == HWT_PROTOCOL && frame[1] >= HWT_NETWORK && board->boot != 0 &&
                       hwt_get32(frame + 4) == board->boot;
    if (numbered && behind == 0) {
        answer_numbered(board, frame, length);
    } else if (numbered && behind <= board->kept) {
        uint8_t *slot = kept_reply(board, hwt_get16(frame + 2));
        board->counters.repeated++;
        send(board, slot + 2, hwt_get16(slot));
    } else {
        answer_here(board, frame, length);
    }
}

/* ---- life --------------------------------------------------------------------------------------------------------------- */

int hwt_board_init(hwt_board_t *board, const hwt_config_t *config) {
    uint8_t *bytes = (uint8_t *)board;
    if (config->receive_size < 128 || config->reply_size < 64 || config->window == 0 ||
        (config->window & (config->window - 1u)) || config->theta_size == 0 ||
        config->samples_size == 0 || config->work_size == 0)
        return -1;
    for (size_t i = 0; i < sizeof *board; i++)
        bytes[i] = 0;
    board->config = config;
    hwt_decoder_init(&board->decoder, config->receive, config->receive_size);
    board->heard = config->port->millis(config->port->context);
    return 0;
}

int hwt_board_poll(hwt_board_t *board) {
    const hwt_port_t *port = board->config->port;
    int byte, busy = 0;
    while ((byte = port->read(port->context)) >= 0) {
        int32_t length = hwt_decode(&board->decoder, (uint8_t)byte);
        busy = 1;
        if (length == 0)
            continue;
        if (length < 0) {
            board->counters.damaged++;
            continue;
        }
        answer(board, (uint16_t)length);
        board->heard = port->millis(port->context);
        board->resting = 0;
        break;
    }
    if (board->watchdog && !board->resting && port->millis(port->context) - board->heard >= board->watchdog) {
        board->counters.rests++;
        board->resting = 1;
        port->rest(port->context);
    }
    return busy;
}
