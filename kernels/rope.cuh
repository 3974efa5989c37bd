// Rotary position embedding: pairs of channels turned by an angle in proportion to the token's position.
#pragma once

#include "element.cuh"

struct Turn {
    float cosine, sine;
};

// The turn of a pair at a position. Turns are 64-bit fractions of a whole one, so their product with a position loses
// nothing but whole turns, at any position.
__device__ __forceinline__ Turn turnOf(const KvRope& rope, int position, int pair) {
    if (rope.cos != nullptr) {
        // A position past the table takes its last row: what comes of it is wrong, but nothing else is read.
        const int row = min(position, rope.table_positions - 1);
        const int64_t entry = static_cast<int64_t>(row) * (rope.rotary_dim / 2) + pair;
        return {rope.cos[entry], rope.sin[entry]};
    }
    const uint64_t turns = rope.turns[pair] * static_cast<uint64_t>(position);
    const float halves = static_cast<float>(static_cast<int32_t>(turns >> 32)) * 0x1p-31f;  // of a turn: -1 to 1
    Turn turn;
    sincospif(halves, &turn.sine, &turn.cosine);
    return {turn.cosine * rope.factor, turn.sine * rope.factor};
}

// What x becomes of a pair (x, y), for y with the sine negative. The same operations everywhere, so that the bits of a
// turned vector do not depend on which kernel turned it.
__device__ __forceinline__ float turned(float x, float y, float cosine, float sine) {
    return fmaf(x, cosine, y * sine);
}
