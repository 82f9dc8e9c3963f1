// Made by `python tools/fit_polynomials.py`, which says how.
#pragma once

namespace simd {

constexpr float kLog2E = 1.44269502f, kLn2 = 0.693147182f;
// log 2 in two parts: the first is so short that its products with exponents are exact.
constexpr float kLn2First = 0.693145752f, kLn2Rest = 1.42860677e-06f;

// e^r = 1 + r + r^2 kExp(r) for |r| <= log 2 / 2.
// To 3.8e-9 of itself, the highest power first.
constexpr float kExp[] = {0.00137514074f, 0.00836891588f, 0.0416695327f, 0.166665182f,
    0.499999881f};

// log(1 + f) = f - f^2 / 2 + f^3 kLog(f) for 1 + f in [sqrt(1/2), sqrt(2)).
// To 7.4e-9 of itself, the highest power first.
constexpr float kLog[] = {-0.0736286789f, 0.126203269f, -0.13202104f, 0.142271146f, -0.166213706f,
    0.19999826f, -0.250008523f, 0.333333552f};

// A root of 2, and what shares out the error of 1 + r for |r| <= log 2 / 64.
constexpr int kRoots = 32;
constexpr double kRoot = 1.0218971486541167, kShare = 1.000029325;

}  // namespace simd
