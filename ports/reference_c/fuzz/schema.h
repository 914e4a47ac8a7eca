/* schema.h - the environment that all programs here play; include it behind rlay.h. SPDX-License-Identifier: MIT */
#ifndef RLAY_FUZZ_SCHEMA_H
#define RLAY_FUZZ_SCHEMA_H

#include "contract.h"

/* Bodies of 0 have the capacity that a schema has without a wish. */
static void fuzz_schema(rlay_schema *s, uint32_t lanes, uint32_t request_body, uint32_t reply_body) {
    static const uint32_t four[1] = {4};
    rlay_schema_config config;
    memset(&config, 0, sizeof config);
    config.render_mode = "rgb_array";
    config.frame = 48;
    config.lanes = lanes;
    config.autoreset = lanes ? "same_step" : NULL;
    config.request_body = request_body;
    config.reply_body = reply_body;
    rlay_schema_begin(s, &config);
    rlay_schema_action(s);
    rlay_space_discrete(s, 2, 0);
    rlay_schema_info(s, "lap");
    rlay_space_discrete(s, 1000, 0);
    rlay_schema_observation(s);
    rlay_space_box_all(s, RLAY_DTYPE_FLOAT32, 1, four, -1.0, 1.0);
    if (rlay_schema_end(s) < 0) fuzz_fail("the schema", s->code);
}

#endif
