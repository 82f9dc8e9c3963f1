"""Links that nobody writes: from a name in code type to its page, from a title to the paper."""

import re

from docutils import nodes

from straightthrough.core.registry import RULES

ARXIV, DOI = "https://arxiv.org/abs/", "https://doi.org/"
PROCEEDINGS, REVIEW = "https://proceedings.mlr.press/", "https://openreview.net/forum?id="

PAPERS = {
    "A simple method for generating gamma variables": f"{DOI}10.1145/358407.358414",
    "Accurate and efficient time-domain classification with adaptive spiking recurrent neural "
    "networks": f"{ARXIV}2103.12593",
    "Algorithm 955: approximation of the inverse Poisson cumulative distribution "
    "function": f"{DOI}10.1145/2699466",
    "Align forward, adapt backward: closing the discretization gap in logic gate "
    "networks": f"{ARXIV}2603.14157",
    "Backpropagation for energy-efficient neuromorphic computing": "https://proceedings.neurips.cc/"
    "paper/2015/hash/10a5ab2db37feedfdeaab192ead4ac0e-Abstract.html",
    "Bengio, Leonard, Courville, 2013": f"{ARXIV}1308.3432",
    "Beyond ReinMax: low-variance gradient estimators for discrete latent "
    "variables": f"{ARXIV}2603.08257",
    "Bi-Real net: enhancing the performance of 1-bit CNNs": f"{ARXIV}1808.00278",
    "Binarized neural networks": f"{ARXIV}1602.02830",
    "Bridging discrete and backpropagation": f"{ARXIV}2304.08612",
    "Bridging discrete and backpropagation: straight-through and beyond": f"{ARXIV}2304.08612",
    "Buy 4 REINFORCE samples, get a baseline for free!": f"{REVIEW}r1lgTGL5DE",
    "Categorical reparameterization with Gumbel-softmax": f"{ARXIV}1611.01144",
    "Cold analysis of Rao-Blackwellized straight-through Gumbel-softmax gradient "
    "estimator": f"{PROCEEDINGS}v202/shekhovtsov23a.html",
    "Convolutional networks for fast, energy-efficient neuromorphic "
    "computing": f"{ARXIV}1603.08270",
    "Deep autoregressive networks": f"{ARXIV}1310.8499",
    "Differentiable fast top-K selection for large-scale recommendation": f"{ARXIV}2510.11472",
    "Differentiable soft quantization": f"{ARXIV}1908.05033",
    "DisARM: an antithetic gradient estimator for binary latent variables": f"{ARXIV}2006.10680",
    "Estimating or propagating gradients through stochastic neurons for conditional "
    "computation": f"{ARXIV}1308.3432",
    "Estimating gradients for discrete random variables by sampling without "
    "replacement": f"{ARXIV}2002.06043",
    "Forward and backward information retention for accurate binary neural "
    "networks": f"{ARXIV}1909.10788",
    "Generalized and optimal straight-through estimators": f"{REVIEW}5LZQfHUVER",
    "Hierarchical multiscale recurrent neural networks": f"{ARXIV}1609.01704",
    "Improving discrete optimisation via decoupled straight-through "
    "estimator": f"{ARXIV}2410.13331",
    "Incorporating learnable membrane time constant to enhance learning of spiking neural "
    "networks": f"{ARXIV}2007.05785",
    "Revisiting score function estimators for k-subset sampling": f"{ARXIV}2407.16058",
    "Stein's lemma for the reparameterization trick with exponential family "
    "mixtures": f"{ARXIV}1910.13398",
    "SIMPLE: a gradient estimator for k-subset sampling": f"{ARXIV}2210.01941",
    "Stochastic beams and where to find them: the Gumbel-top-k trick for sampling sequences "
    "without replacement": f"{ARXIV}1903.06059",
    "The limited multi-label projection layer": f"{ARXIV}1906.08707",
    "Weighted finite population sampling to maximize entropy": f"{DOI}10.1093/biomet/81.3.457",
    "LapSum: one method to differentiate them all: ranking, sorting and top-k "
    "selection": f"{ARXIV}2503.06242",
    "Learning sparse neural networks through L0 regularization": f"{ARXIV}1712.01312",
    "Long short-term memory in networks of spiking neurons": f"{ARXIV}1803.09574",
    "Louizos, Welling, Kingma, 2018": f"{ARXIV}1712.01312",
    "MuProp: unbiased backpropagation for stochastic neural networks": f"{ARXIV}1511.05176",
    "Natural exponential families with quadratic variance "
    "functions": f"{DOI}10.1214/aos/1176345690",
    "Rao-Blackwellizing the straight-through Gumbel-softmax gradient "
    "estimator": f"{ARXIV}2010.04838",
    "Regularized binary network training": f"{ARXIV}1812.11800",
    "SLAYER": f"{ARXIV}1810.08646",
    "SLAYER: spike layer error reassignment in time": f"{ARXIV}1810.08646",
    "Spatio-temporal backpropagation for training high-performance spiking neural "
    "networks": f"{ARXIV}1706.02609",
    "SuperSpike: supervised learning in multilayer spiking neural networks": f"{ARXIV}1705.11146",
    "Surrogate gradient learning in spiking neural networks": f"{ARXIV}1901.09948",
    "Ternary weight networks": f"{ARXIV}1605.04711",
    "The concrete distribution": f"{ARXIV}1611.00712",
    "CAGE: curvature-aware gradient estimation for accurate quantization-aware "
    "training": f"{ARXIV}2510.18784",
    "Training discrete deep generative models via gapped straight-through "
    "estimator": f"{ARXIV}2206.07235",
    "DiVeQ: differentiable vector quantization using the reparameterization "
    "trick": f"{ARXIV}2509.26469",
    "Learned step size quantization": f"{ARXIV}1902.08153",
    "LSQ+: improving low-bit quantization through learnable offsets and better "
    "initialization": f"{ARXIV}2004.09576",
    "StableQAT: stable quantization-aware training at ultra-low bitwidths": f"{ARXIV}2601.19320",
    "Neural discrete representation learning": f"{ARXIV}1711.00937",
    "Restructuring vector quantization with the rotation trick": f"{ARXIV}2410.06424",
    "Network quantization with element-wise gradient scaling": f"{ARXIV}2104.00903",
    "Overcoming oscillations in quantization-aware training": f"{ARXIV}2203.11086",
    "QuEST: stable training of LLMs with 1-bit weights and activations": f"{ARXIV}2502.05003",
    "Optimizing large language model training using FP4 quantization": f"{ARXIV}2501.17116",
    "Trained quantization thresholds for accurate and efficient fixed-point inference of "
    "deep neural networks": f"{ARXIV}1903.08066",
    "PACT: parameterized clipping activation for quantized neural networks": f"{ARXIV}1805.06085",
    "Pretraining large language models with NVFP4": f"{ARXIV}2509.25149",
    "FP8 formats for deep learning": f"{ARXIV}2209.05433",
    "ParetoQ: scaling laws in extremely low-bit LLM quantization": f"{ARXIV}2502.02631",
    "Finite scalar quantization: VQ-VAE made simple": f"{ARXIV}2309.15505",
    "Scaling transformers for low-bitrate high-quality speech coding": f"{ARXIV}2411.19842",
    "Language model beats diffusion: tokenizer is key to visual generation": f"{ARXIV}2310.05737",
    "Image and video tokenization with binary spherical quantization": f"{ARXIV}2406.07548",
    "Quantization and training of neural networks for efficient integer-arithmetic-only "
    "inference": f"{ARXIV}1712.05877",
    "Deep learning with limited numerical precision": f"{ARXIV}1502.02551",
    "Switch transformers: scaling to trillion parameter models with simple and efficient "
    "sparsity": f"{ARXIV}2101.03961",
    "ST-MoE: designing stable and transferable sparse expert models": f"{ARXIV}2202.08906",
    "Auxiliary-loss-free load balancing strategy for mixture-of-experts": f"{ARXIV}2408.15664",
    "Backpropagation through combinatorial algorithms: identity with projection "
    "works": f"{ARXIV}2205.15213",
    "Differentiation of blackbox combinatorial solvers": f"{ARXIV}1912.02175",
    "Implicit MLE: backpropagating through discrete exponential family "
    "distributions": f"{ARXIV}2106.01798",
    "Adaptive perturbation-based gradient estimation for discrete latent variable "
    "models": f"{ARXIV}2209.04862",
    "Learning with differentiable perturbed optimizers": f"{ARXIV}2002.08676",
    "Fast differentiable sorting and ranking": f"{ARXIV}2002.08871",
    "SoftSort: a continuous relaxation for the argsort operator": f"{ARXIV}2006.16038",
    "Learning latent permutations with Gumbel-Sinkhorn networks": f"{ARXIV}1802.08665",
    "OCP microscaling formats (MX) specification": "https://www.opencompute.org/documents/"
    "ocp-microscaling-formats-mx-v1-0-spec-final-pdf",
}
"""Where to read what docstrings and guides refer to, by its title there."""

# A title may be broken across lines; the longer of two that begin alike comes first.
TITLE = re.compile(
    "|".join(r"\s+".join(map(re.escape, t.split())) for t in sorted(PAPERS, key=len, reverse=True))
)
FORMS = {rule.type.__name__: rule.type.__module__.split(".")[1] for rule in RULES.values()}


def full_name(text):
    """Return what `st.sign`, `ReinMax(tau=1.1)` or `"reinmax"` is called as an object of Python."""
    name = text.partition("(")[0]
    if name.strip('"') in RULES and name != name.strip('"'):
        name = RULES[name.strip('"')].type.__name__
    if name in FORMS:
        return f"straightthrough.{FORMS[name]}.{name}"
    return f"straightthrough.{name[3:]}" if name.startswith("st.") else name


def link_names(app, doctree, docname):
    """Link what is documented on another page, wherever it is named in code type."""
    documented = app.env.domaindata["py"]["objects"]
    for literal in list(doctree.findall(nodes.literal)):
        found = documented.get(full_name(literal.astext()))
        if found is None or found.docname == docname or within_link_or_title(literal):
            continue
        address = f"{app.builder.get_relative_uri(docname, found.docname)}#{found.node_id}"
        link = nodes.reference(refuri=address, internal=True)
        literal.replace_self(link)
        link += literal


def link_papers(app, doctree):
    """Link the titles of papers."""
    for text in list(doctree.findall(nodes.Text)):
        parts = linked(text.astext())
        if len(parts) > 1 and not within_link_or_title(text):
            text.parent.replace(text, parts)


def linked(text):
    """Return text in which titles are links, as a list of nodes."""
    parts, end = [], 0
    for title in TITLE.finditer(text):
        address = PAPERS[" ".join(title[0].split())]
        parts.append(nodes.Text(text[end : title.start()]))
        parts.append(nodes.reference("", title[0], refuri=address))
        end = title.end()
    return [part for part in [*parts, nodes.Text(text[end:])] if part.astext()]


def within_link_or_title(node):
    """Say whether a node lies in a link, a heading or code."""
    while node := node.parent:
        if isinstance(node, nodes.reference | nodes.title | nodes.literal | nodes.literal_block):
            return True
    return False


def setup(app):
    """Let Sphinx make the links."""
    app.connect("doctree-read", link_papers)
    app.connect("doctree-resolved", link_names)
