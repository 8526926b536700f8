/* vector_tables.h: polynomials and constants of vector.c. Made by tests/golden/make_vector.py with
 * mpmath; change that file, not this one. Errors are of the whole function in the polynomial's range,
 * relative to its true value, before any rounding in the evaluation: 2**-53 is half an ulp. */
#ifndef MINGRAD_VECTOR_TABLES_H
#define MINGRAD_VECTOR_TABLES_H

#define V_INV_LN2 0x1.71547652b82fep+0
#define V_LN2_HIGH 0x1.62e42fefa3800p-1 /* 42 bits: exact times n <= 2**11 */
#define V_LN2_LOW 0x1.ef35793c76730p-45
#define V_LN2_HALF 0x1.62e42f8000000p-1 /* 26 bits */
#define V_LN2_REST 0x1.be8e7bcd5e4f2p-27
#define V_TWO_PI 0x1.45f306dc9c883p-1 /* 2 / pi */
#define V_PI_2_A 0x1.921fb54440000p+0 /* pi/2 in three parts, two of 39 bits: exact times n <= 2**14 */
#define V_PI_2_B 0x1.68c234c4c4000p-39
#define V_PI_2_C 0x1.3145c06e0e689p-78
#define V_INV_LN2_A 0x1.7154760000000p+0 /* 1/ln(2) and 1/ln(10) as 26 bits and the rest */
#define V_INV_LN2_B 0x1.4ae0bf85ddf44p-26
#define V_INV_LN10_A 0x1.bcb7b10000000p-2
#define V_INV_LN10_B 0x1.49b9438ca9aaep-28
#define V_LOG10_2_A 0x1.34413509f7800p-2
#define V_LOG10_2_B 0x1.fef311f12b358p-46
#define V_SQRT2_A 0x1.6a09e60000000p+0 /* sqrt(2), 1/sqrt(2*pi) and 1/3 as 26 bits and the rest */
#define V_SQRT2_B 0x1.9fcef32422cbfp-26
#define V_PDF_A 0x1.9884530000000p-2
#define V_PDF_B 0x1.ea1b284687e5ap-29
#define V_THIRD_A 0x1.5555550000000p-2
#define V_THIRD_B 0x1.5555555555555p-28
#define V_SQRT1_2 0x1.6a09e667f3bcdp-1
#define V_CBRT2 0x1.428a2f98d728bp+0
#define V_CBRT4 0x1.965fea53d6e3dp+0

/* (e**r - 1 - r) / r**2 in r, |r| < ln(2)/2: 10 terms, error 2**-57.9 */
static const double v_exp[10] = {
    0x1.000000000000ap-1, 0x1.5555555555503p-3, 0x1.5555555550607p-5, 0x1.1111111124ce7p-7,
    0x1.6c16c184b3f4fp-10, 0x1.a01a013d6233dp-13, 0x1.a0199896ccf92p-16, 0x1.71def47c848eep-19,
    0x1.28aec82f7ec78p-22, 0x1.add5492b5a2e8p-26,
};
/* (log((1 + s) / (1 - s)) / s - 2) / z in z = s*s, |s| < 3 - 2*sqrt(2): 7 terms, error 2**-59.5 */
static const double v_log[7] = {
    0x1.5555555555592p-1, 0x1.999999997ff81p-2, 0x1.24924941d8d47p-2, 0x1.c71c521c7a183p-3,
    0x1.74663b1a2a69ep-3, 0x1.39a21a1ddba3cp-3, 0x1.2f01bdd1a6206p-3,
};
/* ((atanh(s) / s - 1) / z - 1/3) / z in z = s*s, same range (pow): 8 terms, error 2**-73.5 */
static const double v_log_rest[8] = {
    0x1.9999999999996p-3, 0x1.2492492492f52p-3, 0x1.c71c71c596667p-4, 0x1.745d18296bcaep-4,
    0x1.3b1364c39bae1p-4, 0x1.112070022b21ap-4, 0x1.de3d5057a654dp-5, 0x1.eac6be90ccab0p-5,
};
/* (sin(r) - r) / r**3 in z = r*r, |r| < pi/4: 6 terms, error 2**-57.8 */
static const double v_sin[6] = {
    -0x1.5555555555548p-3, 0x1.111111110f72fp-7, -0x1.a01a019beb20cp-13, 0x1.71de3559a14c9p-19,
    -0x1.ae5e514119e40p-26, 0x1.5d8d9c2547227p-33,
};
/* (cos(r) - 1 + z/2) / z**2 in z = r*r, |r| < pi/4: 6 terms, error 2**-63.9 */
static const double v_cos[6] = {
    0x1.555555555554bp-5, -0x1.6c16c16c15015p-10, 0x1.a01a019c8f226p-16, -0x1.27e4f7f18bd01p-22,
    0x1.1ee9dbc8a1244p-29, -0x1.8fa67fdc33393p-37,
};
/* P of P(z) / (1 + z*Q(z)) for (tanh(x) - x) / x**3, z = x*x, |x| < 0.625: 3 terms, error 2**-56.4 */
static const double v_tanh_above[3] = {
    -0x1.5555555555554p-2, -0x1.4fd18c5eac446p-6, -0x1.a183e3f564cf4p-13,
};
/* Q of P(z) / (1 + z*Q(z)) for (tanh(x) - x) / x**3, z = x*x, |x| < 0.625: 3 terms, error 2**-56.4 */
static const double v_tanh_below[3] = {
    0x1.d890e3eb59d53p-2, 0x1.7d8f66109f232p-6, 0x1.b0ed7913893e8p-13,
};
/* (sinh(x) - x) / x**3 in z = x*x, |x| < 1: 7 terms, error 2**-61.8 */
static const double v_sinh[7] = {
    0x1.5555555555556p-3, 0x1.111111111101ep-7, 0x1.a01a01a03726ap-13, 0x1.71de3a3b06b8bp-19,
    0x1.ae646ff5048abp-26, 0x1.6116f4a350b80p-33, 0x1.b5c898e0b38c3p-41,
};
/* erf(x) / x - 1 in z = x*x, |x| < 1: 12 terms, error 2**-55.9 */
static const double v_erf_small[12] = {
    0x1.06eba8214db68p-3, -0x1.812746b03799dp-2, 0x1.ce2f21a03f8bcp-4, -0x1.b82ce311a91dap-6,
    0x1.565bcceeb753bp-8, -0x1.c02daeadbf345p-11, 0x1.f9a2956be670fp-14, -0x1.f4c8145e982fbp-17,
    0x1.b96a07fd7065bp-20, -0x1.5b8294a3350e0p-23, 0x1.d38c90d5a5a4bp-27, -0x1.a1245845dbd0cp-31,
};
/* erfc(x) * exp(x*x) * (1 + 2*x) in q = (x - 3) / (x + 3), 1 < x < 6; error of erf: 12 terms, error 2**-56.7 */
static const double v_erf_large[12] = {
    0x1.40c522d7e51b2p+0, -0x1.15c084bad5063p-3, -0x1.85a15c41f8666p-5, 0x1.098365ce1cad2p-3,
    -0x1.e88ba927e3ef2p-4, 0x1.17c87b91a3daap-4, -0x1.859e5b6e27893p-6, 0x1.465084b82863ep-9,
    0x1.d34863ddb37c2p-10, -0x1.fa421fda9dc53p-11, -0x1.40e1817c68bbdp-12, 0x1.dae9655711779p-17,
};
/* (erfc(x) * exp(x*x) * (1 + 2*x) - 1) / w in 2*w - 1, w = x / (x + 3.75), 0 < x < 28: 23 terms, error 2**-55.8 */
static const double v_erfc[23] = {
    0x1.e66d05aeaee14p-2, -0x1.82d1be1953be3p-1, 0x1.867da342566fbp-1, -0x1.323d48ce30a2fp-1,
    0x1.85a5f94f4e0aep-2, -0x1.9137da141a96dp-3, 0x1.419eb9b9cadd9p-4, -0x1.651adfdff6947p-6,
    0x1.2dd51e141c813p-9, 0x1.3cc9da26ad308p-10, -0x1.4598a62daff73p-11, 0x1.55941590160a1p-15,
    0x1.067dbe996996cp-14, -0x1.2af66a68f503ap-16, -0x1.54fd4476391b4p-18, 0x1.a5be626850637p-19,
    0x1.9ecd50c7692e6p-22, -0x1.0f3cae057c68bp-21, -0x1.77970fa8fccccp-25, 0x1.6abc68372e511p-24,
    0x1.eef580fd68c46p-27, -0x1.8c5c327061534p-27, -0x1.17cd9d8ba53bcp-28,
};
/* cbrt(x) in x - 1, 1 < x < 2, to begin with: 8 terms, error 2**-25.3 */
static const double v_cbrt[8] = {
    0x1.000000697a7ffp+0, 0x1.5554690ac0536p-2, -0x1.c6c5b73cd2f24p-4, 0x1.f38b8fe260fabp-5,
    -0x1.3504ac973db46p-5, 0x1.59a3c49ef1874p-6, -0x1.10caccc3844b0p-7, 0x1.a101484ee99c4p-10,
};

#endif
