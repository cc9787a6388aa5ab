"""Coefficients of stream v1.  Written by kernels/coefficients.py: do not edit."""


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, text.split()))


# 2 ln 2
TWO_LN2 = float.fromhex("0x1.62e42fefa39efp+0")
# 2 ln 2 rounded to float32
TWO_LN2_F = float.fromhex("0x1.62e43p+0")
# erf(sqrt 2)^2 rounded to float32
TRUNC2_SCALE = float.fromhex("0x1.d277bcp-1")
# near the middle of the square root's range
TRUNC2_SHIFT = float.fromhex("0x1.4p-1")

# -2 ln(1 - y) = y P(y), y in (0, 1/2]; relative error 2.4e-08
NORMAL_L = _floats("""
    0x1p+1 0x1.fffecp-1 0x1.55a382p-1 0x1.f3144cp-2 0x1.0df4dap-1 -0x1.721596p-2 0x1.3549e6p+1 -0x1.a39134p+1
    0x1.6a0b1p+1
""")

# sin(pi x / 4) = x S(t), t = x^2, x in [-1, 1]; relative error 2.8e-08
NORMAL_S = _floats("""
    0x1.921fb6p-1 -0x1.4abc22p-4 0x1.467faap-9 -0x1.32e77cp-15
""")

# cos(pi x / 4) = 1 + t C(t), t = x^2, x in [-1, 1]; relative error 4.4e-10
NORMAL_C = _floats("""
    -0x1.3bd3ccp-2 0x1.03c1bp-6 -0x1.55b2b4p-12 0x1.d4f632p-19
""")

# z = v P(q), q = sqrt(1 - v^2 TRUNC2_SCALE) - TRUNC2_SHIFT, |v| <= 1; relative error 2.4e-08
TRUNC2_P = _floats("""
    0x1.807318p+0 -0x1.1176cp+0 0x1.d6ac2ep-1 -0x1.d15656p-1 0x1.008c7ep+0 -0x1.35205p+0 0x1.95a9a4p+0 -0x1.f9a67ap+0
    0x1.e499e4p+0 -0x1.ee17fp+1 0x1.76394p+3 -0x1.929326p+3
""")

# |z| = P_k(s) on octave k, s in [-1, 0); row = degree, column = octave; relative error 9.5e-08
ICDF = (
    _floats("""
    0x1.95a11ap+2 0x1.87ba78p+2 0x1.80994p+2 0x1.795744p+2 0x1.71f2b8p+2 0x1.6a69a4p+2 0x1.62b9dep+2 0x1.5ae102p+2
    0x1.52dc7p+2 0x1.4aa938p+2 0x1.424418p+2 0x1.39a966p+2 0x1.30d502p+2 0x1.27c24p+2 0x1.1e6bc8p+2 0x1.14cb7ap+2
    0x1.0ada3ap+2 0x1.008fbap+2 0x1.ebc462p+1 0x1.d58bdp+1 0x1.be596ep+1 0x1.a60a6ep+1 0x1.8c735p+1 0x1.715c7cp+1
    0x1.547d18p+1 0x1.357294p+1 0x1.13b22cp+1 0x1.dcdcp+0 0x1.88bc2p+0 0x1.267d4cp+0 0x1.5956b8p-1 0x0p+0
"""),
    _floats("""
    0x0p+0 -0x1.465f52p-4 -0x1.4c04d8p-4 -0x1.52180ep-4 -0x1.58800ap-4 -0x1.5f36b8p-4 -0x1.664bb8p-4 -0x1.6e04acp-4
    -0x1.761558p-4 -0x1.7edf2p-4 -0x1.88346ap-4 -0x1.9244fcp-4 -0x1.9d24p-4 -0x1.a8c58cp-4 -0x1.b589e4p-4
    -0x1.c360b4p-4 -0x1.d2b0bep-4 -0x1.e3d218p-4 -0x1.f69672p-4 -0x1.05df8ap-3 -0x1.11d558p-3 -0x1.1f9a7cp-3
    -0x1.2f8876p-3 -0x1.42513ep-3 -0x1.58dc82p-3 -0x1.74a0ecp-3 -0x1.97e3dcp-3 -0x1.c6a56ep-3 -0x1.0431c6p-2
    -0x1.36e65ep-2 -0x1.92ccbep-2 -0x1.40d93p-1
"""),
    _floats("""
    0x0p+0 0x1.386ba4p-6 0x1.46cc7cp-6 0x1.4b9fd4p-6 0x1.516f94p-6 0x1.5cf4dp-6 0x1.6c3738p-6 0x1.6c1bf4p-6
    0x1.7993dp-6 0x1.79a6bcp-6 0x1.80b92p-6 0x1.85b788p-6 0x1.8a0e5cp-6 0x1.9ac01p-6 0x1.a35926p-6 0x1.b6917cp-6
    0x1.c31e6cp-6 0x1.c08b12p-6 0x1.d77d16p-6 0x1.e97eccp-6 0x1.0115b4p-5 0x1.092e34p-5 0x1.165faep-5 0x1.24a96cp-5
    0x1.371152p-5 0x1.4ade1ap-5 0x1.6221aep-5 0x1.79a1c2p-5 0x1.961aeep-5 0x1.b28e9p-5 0x1.ab655ap-5 0x1.a9d00cp-18
"""),
    _floats("""
    0x0p+0 -0x1.2cb8dap-7 -0x1.3fb7ep-8 -0x1.5f7a96p-8 -0x1.6996f6p-8 -0x1.90c1bap-9 0x1.110cb2p-10 -0x1.4aedbp-9
    0x1.35252p-12 -0x1.dcb4fap-9 -0x1.223408p-8 -0x1.ab8788p-8 -0x1.2f8fc8p-7 -0x1.a0de9p-8 -0x1.005894p-7
    -0x1.2b5bfp-8 -0x1.4ed85ep-8 -0x1.bf0d4p-7 -0x1.56f39ep-7 -0x1.599246p-7 -0x1.129cdcp-7 -0x1.7a247ep-7
    -0x1.6dea34p-7 -0x1.7862bcp-7 -0x1.46917p-7 -0x1.3f8bbcp-7 -0x1.35ddep-7 -0x1.a4dfe8p-7 -0x1.f16056p-7
    -0x1.120fb2p-6 -0x1.3d380ap-6 -0x1.4f127p-5
"""),
    _floats("""
    0x0p+0 -0x1.115b38p-7 0x1.253da4p-7 0x1.ed1f76p-8 0x1.e61b4p-8 0x1.1fffe2p-6 0x1.180d5p-5 0x1.54d98cp-6
    0x1.0a0864p-5 0x1.225914p-6 0x1.f5ff42p-7 0x1.0147dep-7 -0x1.11ed0ep-9 0x1.4c69d8p-7 0x1.5bab0cp-8 0x1.38c764p-6
    0x1.27cb9ap-6 -0x1.d2fdc2p-7 -0x1.001558p-11 0x1.40c4eap-11 0x1.5da8cp-7 0x1.82ba2p-16 0x1.c62e4p-9 0x1.22a182p-8
    0x1.a7a29ap-7 0x1.11d21ap-6 0x1.5d34e2p-6 0x1.89e3dp-7 0x1.ef722cp-8 0x1.ed57a2p-8 0x1.ca0314p-8 0x1.963eb2p-11
"""),
    _floats("""
    0x0p+0 -0x1.7e5b28p-6 0x1.b65346p-7 0x1.500362p-7 0x1.455166p-7 0x1.01a34p-5 0x1.1124bap-4 0x1.38136ep-5
    0x1.015f6ap-4 0x1.0042a4p-5 0x1.aa7b96p-6 0x1.470834p-7 -0x1.73b2dcp-7 0x1.dc8d4ap-7 0x1.066ddcp-8 0x1.101f1ep-5
    0x1.f8eac4p-6 -0x1.398eb2p-5 -0x1.2c8bb6p-7 -0x1.d1ff5cp-8 0x1.cb33e8p-7 -0x1.27917ap-7 -0x1.0be9b4p-9
    -0x1.aeef9ep-12 0x1.19f30ep-6 0x1.9563e8p-6 0x1.16196ep-5 0x1.b4831p-7 0x1.5fe894p-9 0x1.a5741cp-10 -0x1.443c3p-11
    -0x1.89a448p-9
"""),
    _floats("""
    0x0p+0 -0x1.9f3ccep-6 0x1.26ce2ep-6 0x1.d64a42p-7 0x1.caedacp-7 0x1.42feb2p-5 0x1.4be216p-4 0x1.83f38ap-5
    0x1.39ce74p-4 0x1.42e7aep-5 0x1.1095cp-5 0x1.d79c9p-7 -0x1.5ed188p-7 0x1.462acep-6 0x1.eaa898p-8 0x1.58c15ap-5
    0x1.42663p-5 -0x1.596efp-5 -0x1.f7552ap-8 -0x1.51a5dep-8 0x1.460068p-6 -0x1.d69a5ap-8 0x1.3c9dbap-10 0x1.add6bp-9
    0x1.8dc77cp-6 0x1.11a0fep-5 0x1.6cef7ap-5 0x1.4e4082p-6 0x1.03ca88p-7 0x1.d07914p-8 0x1.4516b2p-8 0x1.3923aep-8
"""),
    _floats("""
    0x0p+0 -0x1.f7c148p-7 0x1.70b26ap-7 0x1.279b3ap-7 0x1.20bdp-7 0x1.904518p-6 0x1.997c94p-5 0x1.e03cfep-6
    0x1.83852p-5 0x1.907416p-6 0x1.52b104p-6 0x1.2955b2p-7 -0x1.9fbc6ap-8 0x1.98dff2p-7 0x1.3bf84p-8 0x1.abe3ap-6
    0x1.90c0f6p-6 -0x1.a4ae4cp-6 -0x1.237a0ap-8 -0x1.7ac8dcp-9 0x1.9a3a02p-7 -0x1.0e5872p-8 0x1.129352p-10
    0x1.30a17cp-9 0x1.f42d3ep-7 0x1.5676c4p-6 0x1.c76a5ap-6 0x1.a7decep-7 0x1.527764p-8 0x1.33bd88p-8 0x1.c21e8p-9
    0x1.d8fe2cp-9
"""),
    _floats("""
    0x0p+0 -0x1.c3d20cp-9 0x1.a406e6p-9 0x1.5bfc28p-9 0x1.56006p-9 0x1.aaeb7ep-8 0x1.a6b50ap-7 0x1.fbc88p-8
    0x1.917666p-7 0x1.ad391p-8 0x1.70260cp-8 0x1.6607dp-9 -0x1.224e36p-10 0x1.d85cb6p-9 0x1.bcf56p-10 0x1.ccec72p-8
    0x1.b2f0aep-8 -0x1.812a7ap-8 -0x1.22acap-11 -0x1.386abep-13 0x1.e77888p-9 -0x1.b7015ap-12 0x1.d66b6ep-11
    0x1.4511acp-10 0x1.274f88p-8 0x1.85fd32p-8 0x1.f9b1a6p-8 0x1.08d486p-8 0x1.167332p-9 0x1.0fa536p-9 0x1.e08c82p-10
    0x1.030e7cp-9
"""),
)

# -2 ln(1 - y) = y P(y), y in (0, 1/2]; relative error 4.1e-17
NORMAL64_L = _floats("""
    0x1p+1 0x1.0000000000177p+0 0x1.555555551b0a4p-1 0x1.00000019821a7p-1 0x1.99998e3871c17p-2 0x1.5556db974e034p-2
    0x1.246fd624cc36cp-2 0x1.021fe90c36aa6p-2 0x1.965d804fef9bap-3 0x1.9d6cdceb7b11bp-2 -0x1.248bacd98b099p+0
    0x1.b1d3b61775ca5p+2 -0x1.94e5660be989fp+4 0x1.2eac2311a7cep+6 -0x1.561e5e490c13p+7 0x1.239a3dca5e567p+8
    -0x1.696df58655fdbp+8 0x1.358043f68b98cp+8 -0x1.482310fb5f377p+7 0x1.4a34d90429852p+5
""")

# sin(pi x / 4) = x S(t), t = x^2, x in [-1, 1]; relative error 3.9e-17
NORMAL64_S = _floats("""
    0x1.921fb54442d18p-1 -0x1.4abbce625bdbp-4 0x1.466bc6774b53ep-9 -0x1.32d2ccd4e1c06p-15 0x1.5078225b63f09p-22
    -0x1.e2f476b051aa9p-30 0x1.dff662964c725p-38
""")

# cos(pi x / 4) = 1 + t C(t), t = x^2, x in [-1, 1]; relative error 3.1e-19
NORMAL64_C = _floats("""
    -0x1.3bd3cc9be45dep-2 0x1.03c1f081b5a52p-6 -0x1.55d3c7e3bfe56p-12 0x1.e1f50675b20c4p-19 -0x1.a6d1e238ecf45p-26
    0x1.f9c4adbd8d924p-34 -0x1.b0345d09e2f0dp-42
""")

# x M(x) = N(t), t = 1 / x^2 in (0, 1/16]; relative error 1.2e-16
TAIL_N = _floats("""
    0x1p+0 -0x1.fffffffffe695p-1 0x1.7ffffffcead5cp+1 -0x1.dffffde3f6d0cp+3 0x1.a3ffa18b6dbd9p+6 -0x1.d87609ecacc69p+9
    0x1.447ee0502ee15p+13 -0x1.05bd3f70c0fbfp+17 0x1.da7201df0c8cfp+20 -0x1.c5223d5762f27p+24 0x1.a3f21e1dd3d16p+28
    -0x1.5b007ea5531aap+32 0x1.d9db2477b66eap+35 -0x1.f209bc8b71c48p+38 0x1.73595dda103fdp+41 -0x1.5a3a78ff0d3ddp+43
    0x1.2da4f8d41fe5p+44
""")

# AS 241: Phi^-1(1/2 + q) = q A(r) / B(r), r = 0.180625 - q^2, |q| <= 0.425
AS241_A = _floats("""
    0x1.b18d91e9eef75p+1 0x1.0a4888b1a436ep+7 0x1.ece5d2213c0ccp+10 0x1.ad1d8cd4ee71dp+13 0x1.66c3e869b752ap+15
    0x1.06c1c55b78f2p+16 0x1.052d26b2e45e4p+15 0x1.39a296f7d925ep+11
""")

# AS 241: Phi^-1(1/2 + q) = q A(r) / B(r), r = 0.180625 - q^2, |q| <= 0.425
AS241_B = _floats("""
    0x1p+0 0x1.5281b386e1ab5p+5 0x1.5797efdc8b3f7p+9 0x1.512322e75c89fp+12 0x1.4b772d5d65266p+14 0x1.3317caa64f4bep+15
    0x1.c0e457cb1ae76p+14 0x1.46a7eca984b69p+12
""")

# AS 241: -Phi^-1(p) = C(r - 1.6) / D(r - 1.6), r = sqrt(-ln p) <= 5, p < 0.075
AS241_C = _floats("""
    0x1.6c665fde9526ap+0 0x1.2857748cab19bp+2 0x1.713f71462256ap+2 0x1.d2ecb1a3d02c4p+1 0x1.453cc085375b2p+0
    0x1.ef2abb9b85c37p-3 0x1.744eb6c45ec67p-6 0x1.9615ac0b7ace9p-11
""")

# AS 241: -Phi^-1(p) = C(r - 1.6) / D(r - 1.6), r = sqrt(-ln p) <= 5, p < 0.075
AS241_D = _floats("""
    0x1p+0 0x1.06cefbb46a449p+1 0x1.ad278e6526633p+0 0x1.61292f23385c9p-1 0x1.2f5123394f04p-3 0x1.f207a7eab17bfp-7
    0x1.1f18cbfdf2728p-11 0x1.20d3f686439e4p-30
""")

# AS 241: -Phi^-1(p) = E(r - 5) / F(r - 5), r = sqrt(-ln p) > 5
AS241_E = _floats("""
    0x1.aa1b1c13ee526p+2 0x1.5daea6e875003p+2 0x1.c8ea6461fa445p+0 0x1.2fad9315255cfp-2 0x1.b2b41193b4ee7p-6
    0x1.45c1908425345p-10 0x1.c6ec6cc59e02ap-16 0x1.afb74d693bf93p-23
""")

# AS 241: -Phi^-1(p) = E(r - 5) / F(r - 5), r = sqrt(-ln p) > 5
AS241_F = _floats("""
    0x1p+0 0x1.331d34fc7d77fp-1 0x1.186eb183443fbp-3 0x1.e76f93215462ap-7 0x1.9c8bc979dc5d7p-11 0x1.35c2c496374bfp-16
    0x1.31446f740b9ep-23 0x1.269bff1f8c19p-49
""")
