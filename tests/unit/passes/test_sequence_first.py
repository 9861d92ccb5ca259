"""Tokens sequence first: where Transposes stand, what numbers are kept, and what stays as it was."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.graph.builder import GraphBuilder
from calib8.graph.weighted import weighted_ops
from calib8.passes.half import to_half
from calib8.passes.insert_qdq import insert_qdq
from calib8.passes.prepare import prepare
from calib8.passes.sequence_first import sequence_first
from calib8.testing import outputs_of, tiny_encoder, token_feeds

FLOAT, INT64 = ir.DataType.FLOAT, ir.DataType.INT64
HEADS, HEAD = 2, 3
WIDTH = HEADS * HEAD
SWAP = (1, 0, 2)


class Layers(GraphBuilder):
    """Parts of encoders over ``x`` [batch, sequence, WIDTH], which a test puts together."""

    def tokens(self, name: str = "x", *shape: int | str) -> ir.Value:
        return self.input(name, FLOAT, *(shape or ("batch", "sequence", WIDTH)))

    def ints(self, *numbers: int) -> ir.Value:
        return self.constant(f"ints_{len(self.constants)}", list(numbers), np.int64)

    def linear(self, x: ir.Value, rows: int = WIDTH, columns: int = WIDTH) -> ir.Value:
        return self.op("MatMul", x, self.weight(f"w_{len(self.constants)}", rows, columns))

    def size(self, x: ir.Value, axis: int, form: str = "gather") -> ir.Value:
        """The size of an axis of ``x`` as [1], as PyTorch's exporters write it."""
        if form == "gather":
            gathered = self.op("Gather", self.op("Shape", x), self.constant(f"i_{len(self.constants)}", axis, np.int64))
            return self.op("Unsqueeze", gathered, self.ints(0))
        size = self.op("Shape", x, start=axis, end=axis + 1)
        return size if form == "shape" else self.op("Reshape", self.op("Squeeze", size, self.ints(0)), self.ints(-1))

    def parts(self, x: ir.Value, number: int, axis: int) -> list[ir.Value]:
        """The outputs of a Split."""
        outputs = [ir.Value(name=f"part_{index}") for index in range(number)]
        self.nodes.append(ir.node("Split", [x], {"axis": axis, "num_outputs": number}, outputs=outputs, name="parts"))
        return outputs

    def split(self, x: ir.Value, *perm: int, target: ir.Value | None = None) -> ir.Value:
        target = target if target is not None else self.ints(0, 0, HEADS, HEAD)
        return self.op("Transpose", self.op("Reshape", x, target), perm=list(perm))

    def heads(self, q: ir.Value, k: ir.Value, v: ir.Value) -> ir.Value:
        return self.op("MatMul", self.op("Softmax", self.op("MatMul", q, k), axis=-1), v)

    def merge(self, context: ir.Value, target: ir.Value | None = None) -> ir.Value:
        turned = self.op("Transpose", context, perm=[0, 2, 1, 3])
        return self.op("Reshape", turned, target if target is not None else self.ints(0, 0, WIDTH))

    def attention(self, x: ir.Value, of: ir.Value | None = None) -> ir.Value:
        of = of if of is not None else x
        q = self.split(self.linear(x), 0, 2, 1, 3)
        k, v = self.split(self.linear(of), 0, 2, 3, 1), self.split(self.linear(of), 0, 2, 1, 3)
        return self.linear(self.merge(self.heads(q, k, v)))


def feeds_of(model: ir.Model, batch: int = 2, sequence: int = 5, seed: int = 3) -> dict[str, np.ndarray]:
    sizes, random = {"batch": batch, "sequence": sequence, "other": sequence + 2}, np.random.default_rng(seed)
    shapes = {i.name: [d if isinstance(d, int) else sizes[d.value] for d in i.shape] for i in model.graph.inputs}
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def rewritten(model: ir.Model, feeds: dict[str, np.ndarray] | None = None) -> ir.Model:
    """``model`` after the pass, which changed it but no bit of any output, nor the outputs' names and shapes."""
    before = outputs_of(model, feeds or feeds_of(model))
    told = [(value.name, value.dtype, value.shape) for value in model.graph.outputs]
    model = model.clone()
    assert sequence_first(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [(value.name, value.dtype, value.shape) for value in model.graph.outputs] == told
    after = outputs_of(model, feeds or feeds_of(model))
    assert list(after) == list(before)
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
    return model


def untouched(model: ir.Model) -> bool:
    changed = model.clone()
    applied = sequence_first(changed)
    return not applied and ir.to_proto(changed) == ir.to_proto(model)


def swaps(model: ir.Model) -> list[str]:
    """What is read by Transposes that change the order of tokens, in graph order."""
    return [node.inputs[0].name for node in model.graph if permutation(node) == SWAP]


def permutation(node: ir.Node) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("perm")) if node.op_type == "Transpose" else ()


def permutations(model: ir.Model) -> list[tuple[int, ...]]:
    return [found for node in model.graph if (found := permutation(node))]


def quantised(model: ir.Model) -> ir.Model:
    ops = weighted_ops(prepare(model))
    return insert_qdq(model, ops, {op.activation.name: 4.0 for op in ops})


@pytest.mark.parametrize("form", [prepare, quantised, lambda m: to_half(quantised(m))], ids=["float", "int8", "half"])
def test_the_tokens_of_an_encoder_turn_once_where_they_enter_and_once_where_they_leave(form):
    model = form(tiny_encoder())
    changed = rewritten(model, token_feeds(5, 9))
    assert swaps(changed) == ["words_of_out", "Gather_4_out", "last_hidden_state_sequence_first"]
    inside = [found for found in permutations(changed) if found != SWAP]
    assert sorted(inside) == [(1, 2, 0, 3), (1, 2, 0, 3), (1, 2, 3, 0), (2, 0, 1, 3)]
    assert [n.op_type for n in changed.graph].count("QuantizeLinear") == [n.op_type for n in model.graph].count(
        "QuantizeLinear"
    )


@settings(max_examples=30)
@given(
    batch=st.integers(1, 4),
    sequence=st.integers(1, 9),
    heads=st.integers(1, 4),
    lasting=st.integers(1, 5),
    codes=st.booleans(),
    seed=st.integers(0, 99),
)
def test_no_bit_changes_for_any_shape(batch, sequence, heads, lasting, codes, seed):
    lengths = np.random.default_rng(seed).integers(1, sequence + 1, batch)
    model = tiny_encoder(width=heads * lasting, heads=heads)
    rewritten(quantised(model) if codes else model, token_feeds(*lengths.tolist(), seed=seed))


def layer_of(g: Layers, x: ir.Value) -> ir.Value:
    return g.op("Relu", g.op("Add", x, g.attention(x)), name="residual")


def model_with(middle, opset: int = 18) -> ir.Model:
    """x -> Tanh -> what ``middle`` makes of it -> a layer -> y."""
    g = Layers(opset)
    return g.model(y=layer_of(g, middle(g, g.op("Tanh", g.tokens(), name="first"))))


INSIDE = {
    "norm": lambda g, x: g.op("LayerNormalization", x, g.weight("scale", WIDTH), axis=2),
    "softmax": lambda g, x: g.op("Softmax", x, axis=2),
    "reduce": lambda g, x: g.op("Sub", x, g.op("ReduceMean", x, g.ints(-1))),
    "reduce the last axis as 2": lambda g, x: g.op("Sub", x, g.op("ReduceMax", x, g.ints(2))),
    "gather channels": lambda g, x: g.op("Gather", x, g.ints(5, 4, 3, 2, 1, 0), axis=-1),
    "concat channels": lambda g, x: g.linear(g.op("Concat", x, x, axis=2), 2 * WIDTH),
    "constant scalar": lambda g, x: g.op("Clip", x, g.constant("low", -0.5), g.constant("high", 0.5)),
    "constant of one row": lambda g, x: g.op("Mul", x, g.weight("row", 1, 1, WIDTH)),
    "decomposed weight": lambda g, x: g.op("MatMul", x, g.op("Cast", g.weight("m", WIDTH, WIDTH), to=int(FLOAT))),
}


@pytest.mark.parametrize("name", INSIDE)
def test_what_computes_token_by_token_stays_inside(name):
    assert swaps(rewritten(model_with(INSIDE[name]))) == ["x", "y_sequence_first"]


def rank_two(g: Layers, x: ir.Value) -> ir.Value:
    return g.op("Add", x, g.op("ReduceMean", x, g.ints(0), keepdims=0))


def masked(g: Layers, x: ir.Value) -> ir.Value:
    return g.op("Where", g.op("Greater", x, g.constant("zero", 0.0)), x, g.constant("filled", -1.0))


def branch(g: Layers, x: ir.Value) -> ir.Value:
    """x or its negative, by an If whose bodies read x, so that they are tokens of another graph."""
    bodies = []
    for kind in ("Relu", "Neg"):
        node = ir.node(kind, [x], outputs=[ir.Value(name=f"{kind}_in_body", type=ir.TensorType(FLOAT))])
        bodies.append(ir.Graph([], node.outputs, nodes=[node], name=kind))
    taken = g.op("If", g.constant("chosen", True, bool), then_branch=bodies[0], else_branch=bodies[1])
    taken.shape, taken.type = ir.Shape(["batch", "sequence", WIDTH]), ir.TensorType(FLOAT)
    return g.op("Add", x, taken)


OUTSIDE = {
    "two computed matrices": lambda g, x: g.op("MatMul", g.op("MatMul", x, g.op("Transpose", x, perm=[0, 2, 1])), x),
    "softmax over the sequence": lambda g, x: g.op("Softmax", x, axis=1),
    "concat of the sequence": lambda g, x: g.op("Concat", x, x, axis=1),
    "split of the sequence": lambda g, x: g.parts(g.op("Concat", x, x, axis=1), 2, axis=1)[1],
    "gather of the sequence": lambda g, x: g.op("Gather", x, g.ints(1, 0), axis=1),
    "gather of the batch": lambda g, x: g.op("Gather", x, g.ints(1, 0)),
    "reduce the batch": lambda g, x: g.op("Sub", x, g.op("ReduceMean", x, g.ints(0))),
    "reduce the sequence": lambda g, x: g.op("Sub", x, g.op("ReduceMean", x, g.ints(1))),
    "reduce everything": lambda g, x: g.op("Sub", x, g.op("ReduceMean", x)),
    "running sum": lambda g, x: g.op("CumSum", x, g.constant("along", 1, np.int64)),
    "an operand of rank 2": rank_two,
    "a constant of rank 2": lambda g, x: g.op("Add", x, g.weight("positions", 5, WIDTH)),
    "a constant of positions": lambda g, x: g.op("Add", x, g.weight("positions", 1, 5, WIDTH)),
    "a constant of rank 3 beside": lambda g, x: g.linear(
        g.op("Concat", x, g.weight("beside", 2, 5, 2), axis=-1), WIDTH + 2
    ),
    "a constant first beside": lambda g, x: g.linear(
        g.op("Concat", g.weight("beside", 2, 5, 2), x, axis=-1), WIDTH + 2
    ),
    "a batch of matrices": lambda g, x: g.op("MatMul", x, g.weight("matrices", 2, WIDTH, WIDTH)),
    "a constant on the left": lambda g, x: g.op("MatMul", g.weight("left", 5, 5), x),
    "a norm by position": lambda g, x: g.op("LayerNormalization", x, g.weight("each", 5, WIDTH), axis=1),
    "one more axis": lambda g, x: g.op(
        "Squeeze", g.op("Mul", x, g.weight("four", 1, 1, 1, WIDTH), name="four_axes"), g.ints(0)
    ),
    "a mask by Where": masked,
    "scales of channels": lambda g, x: g.op(
        "DequantizeLinear",
        g.op("QuantizeLinear", x, s := g.constant("s", [0.1] * 5), z := g.constant("z", [0] * 5, np.int8), axis=1),
        *(s, z),
        axis=1,
    ),
    "the body of an If": branch,
    "shape inside": lambda g, x: g.op("Add", x, g.op("Cast", g.size(x, 1), to=int(FLOAT))),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_whatever_else_reads_tokens_reads_them_batch_first(name):
    model = model_with(OUTSIDE[name])
    changed = rewritten(model)
    assert swaps(changed)[-1] == "y_sequence_first"
    assert len(swaps(changed)) <= 4


@pytest.mark.parametrize("axis", [-1, 2])
def test_axes_are_an_attribute_up_to_opset_17(axis):
    model = model_with(lambda g, x: g.op("Sub", x, g.op("ReduceMean", x, axes=[axis])), opset=17)
    assert swaps(rewritten(model)) == ["x", "y_sequence_first"]
    model = model_with(lambda g, x: g.op("Sub", x, g.op("ReduceMean", x, axes=[1])), opset=17)
    assert len(swaps(rewritten(model))) > 2


def test_tensors_with_one_row_or_position_are_broadcast_in_either_order():
    g = Layers()
    x, row, position = g.tokens(), g.tokens("row", "batch", 1, WIDTH), g.tokens("position", 1, "sequence", WIDTH)
    model = g.model(y=layer_of(g, g.op("Mul", g.op("Add", x, position), row)))
    assert sorted(swaps(rewritten(model))) == ["position", "row", "x", "y_sequence_first"]


@pytest.mark.parametrize("form", ["gather", "shape", "squeeze"])
@pytest.mark.parametrize("of", ["x", "other of the stack", "itself"])
def test_sizes_that_are_measured_become_zeros(form, of):
    g = Layers()
    x = g.op("Tanh", g.tokens())
    turned = g.op(
        "Transpose",
        g.heads(
            *(
                g.split(
                    g.linear(x),
                    *perm,
                    target=g.op(
                        "Concat", *(g.size(x, axis, form) for axis in (0, 1)), g.ints(HEADS), g.ints(-1), axis=0
                    ),
                )
                for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
            )
        ),
        perm=[0, 2, 1, 3],
    )
    measured = {"x": x, "other of the stack": g.linear(x), "itself": turned}[of]
    target = g.op("Concat", *(g.size(measured, axis, form) for axis in (0, 1)), g.ints(WIDTH), axis=0)
    model = g.model(y=g.op("Add", x, g.linear(g.op("Reshape", turned, target))))
    changed = rewritten(model)
    assert swaps(changed) == ["x", "y_sequence_first"]
    assert not {"Shape", "Concat"} & {node.op_type for node in changed.graph}


def test_minus_one_for_the_sequence_is_its_size():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    size = g.size(x, 0)
    targets = [g.op("Concat", size, *map(g.ints, rest), axis=0) for rest in ((-1, HEADS, HEAD), (-1, WIDTH))]
    split = [g.split(g.linear(x), *perm, target=targets[0]) for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))]
    model = g.model(y=g.op("Add", x, g.merge(g.heads(*split), targets[1])))
    assert swaps(rewritten(model)) == ["x", "y_sequence_first"]


def test_minus_one_is_what_it_says_where_numbers_do_not_fit():
    """[batch, -1, 1, HEAD] of WIDTH channels makes heads more positions."""
    g = Layers()
    x = g.op("Tanh", g.tokens())
    size = g.size(x, 0)
    target = g.op("Concat", size, *map(g.ints, (-1, 1, HEAD)), axis=0)
    split = [g.split(g.linear(x), *perm, target=target) for perm in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))]
    assert untouched(g.model(y=g.merge(g.heads(*split), g.op("Concat", size, *map(g.ints, (-1, HEAD)), axis=0))))


def test_one_tensor_is_read_by_several_heads_and_split_as_it_is():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    shared = g.op("Reshape", x, g.ints(0, 0, -1, HEAD))
    q, k = g.op("Transpose", shared, perm=[0, 2, 1, 3]), g.op("Transpose", shared, perm=[0, 2, 3, 1])
    v = g.split(x, 0, 2, 1, 3)
    model = g.model(y=g.op("Add", x, g.merge(g.heads(q, k, v))), q=q)
    assert swaps(rewritten(model)) == ["x", "y_sequence_first"]


def test_queries_that_share_one_head_of_keys():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    one = g.ints(0, 0, 1, HEAD)
    k, v = (g.split(g.linear(x, columns=HEAD), *perm, target=one) for perm in ((0, 2, 3, 1), (0, 2, 1, 3)))
    model = g.model(y=g.op("Add", x, g.merge(g.heads(g.split(x, 0, 2, 1, 3), k, v))))
    assert swaps(rewritten(model)) == ["x", "y_sequence_first"]


def test_a_packed_projection_is_split_inside():
    g = Layers(18)
    x = g.op("Tanh", g.tokens())
    q, k, v = g.parts(g.linear(x, columns=3 * WIDTH), 3, axis=-1)
    heads = g.heads(g.split(q, 0, 2, 1, 3), g.split(k, 0, 2, 3, 1), g.split(v, 0, 2, 1, 3))
    assert swaps(rewritten(g.model(y=g.op("Add", x, g.merge(heads))))) == ["x", "y_sequence_first"]


def test_rotary_positions_behind_the_split_stay_as_they_are():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    positions = g.op("Unsqueeze", g.input("angles", FLOAT, "sequence", HEAD), g.ints(0, 1))
    q = g.split(g.linear(x), 0, 2, 1, 3)
    q = g.op("Add", g.op("Mul", q, g.op("Cos", positions)), g.op("Mul", g.op("Neg", q), g.op("Sin", positions)))
    k, v = g.split(g.linear(x), 0, 2, 3, 1), g.split(g.linear(x), 0, 2, 1, 3)
    model = g.model(y=g.op("Add", x, g.merge(g.heads(q, k, v))))
    assert swaps(rewritten(model)) == ["x", "y_sequence_first"]


def test_two_stacks_and_attention_from_one_to_the_other():
    g = Layers()
    x, other = g.tokens(), g.tokens("o", "batch", "other", WIDTH)
    memory = layer_of(g, other)
    model = g.model(y=g.op("Add", x, g.attention(x, of=memory)))
    assert sorted(swaps(rewritten(model))) == ["o", "x", "y_sequence_first"]


def test_shape_reads_what_enters_as_it_was():
    g = Layers()
    x = g.tokens()
    size = g.op("Shape", x, name="shape")
    changed = rewritten(g.model(y=layer_of(g, x), size=size))
    assert next(node for node in changed.graph if node.name == "shape").inputs[0] is changed.graph.inputs[0]
    assert swaps(changed) == ["x", "y_sequence_first"]


def test_keys_of_the_past_stay_as_they_are():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    past = g.input("past", FLOAT, "batch", HEADS, "other", HEAD)
    k = g.op("Concat", past, g.split(g.linear(x), 0, 2, 1, 3), axis=2)
    q = g.split(g.linear(x), 0, 2, 1, 3)
    heads = g.heads(q, g.op("Transpose", k, perm=[0, 1, 3, 2]), k)
    model = g.model(y=g.op("Add", x, g.merge(heads)), present=k)
    changed = rewritten(model)
    assert swaps(changed) == ["x", "y_sequence_first"]
    assert (0, 1, 3, 2) in permutations(changed)


def test_outputs_inside_keep_their_names():
    g = Layers(18)
    x = g.op("Tanh", g.tokens())
    hidden = layer_of(g, x)
    pooled = g.op("ReduceMean", hidden, g.ints(1), keepdims=0)
    changed = rewritten(g.model(first=x, hidden=hidden, pooled=pooled))
    assert swaps(changed) == ["x", "first_sequence_first", "hidden_sequence_first"]
    pool = next(node for node in changed.graph if node.op_type == "ReduceMean")
    assert pool.inputs[0] is changed.graph.outputs[1]


def embeddings_and_pooling(layers: int = 1) -> ir.Model:
    """Four tensors added up, layers, and the mean of tokens under a mask: nine Transposes, if all were inside."""
    g = Layers(18)
    x = g.tokens()
    for index in range(3):
        x = g.op("Add", x, g.tokens(f"added_{index}"), name=f"sum_{index}")
    x = g.op("LayerNormalization", x, g.weight("scale", WIDTH), name="norm")
    for _ in range(layers):
        x = g.op("Add", x, g.attention(x))
    mask = g.op("Cast", g.tokens("mask"), to=int(FLOAT), name="cast")
    total = g.op("ReduceSum", g.op("Mul", x, mask, name="masked"), g.ints(1), keepdims=0)
    count = g.op("ReduceSum", mask, g.ints(1), keepdims=0)
    return g.model(hidden=x, total=total, count=count)


def test_tokens_enter_behind_a_sum_and_leave_in_front_of_pooling_where_that_spares_transposes():
    assert swaps(rewritten(embeddings_and_pooling(2))) == ["sum_2_out", "hidden_sequence_first"]


def test_a_model_that_needs_more_transposes_is_left_as_it_is():
    g = Layers(18)
    x = g.tokens()
    for _ in range(3):
        x = masked_layer(g, x)
    assert untouched(g.model(y=x))


def masked_layer(g: Layers, x: ir.Value) -> ir.Value:
    x = g.op("Relu", g.op("Add", x, g.attention(x)))
    return g.op("CumSum", x, g.constant(f"along_{len(g.constants)}", 1, np.int64))


def test_a_model_without_heads_is_left_as_it_is():
    g = Layers()
    assert untouched(g.model(y=g.op("Relu", g.linear(g.tokens()))))


def changed_attention(**options) -> ir.Model:
    """x -> attention -> y with one thing in it that rule 1 does not say, by ``options``."""
    g = Layers()
    x = g.op("Tanh", g.tokens("x", 2, 5, WIDTH))
    target = g.ints(*options.get("target", (0, 0, HEADS, HEAD)))
    reshaped = g.op("Reshape", g.linear(x), target, name="split", **options.get("attributes", {}))
    q = g.op("Transpose", reshaped, perm=list(options.get("perm", (0, 2, 1, 3))))
    outputs = {"seen": reshaped} if options.get("seen") == "output" else {}
    if options.get("seen") == "reader":
        outputs["seen"] = g.op("Relu", reshaped)
    return g.model(y=q, **outputs)


@pytest.mark.parametrize(
    "options",
    [
        {"target": (2, 5, HEADS, HEAD)},
        {"target": (0, 5, HEADS, HEAD)},
        {"target": (0, HEADS, 5, HEAD)},
        {"target": (-1, 1, HEADS, HEAD)},
        {"target": (0, 0, HEADS, HEAD, 1), "perm": (0, 2, 1, 3, 4)},
        {"perm": (0, 1, 3, 2)},
        {"perm": (1, 0, 2, 3)},
        {"perm": (3, 2, 1, 0)},
        {"seen": "output"},
        {"seen": "reader"},
    ],
    ids=str,
)
def test_what_is_no_split_of_heads_is_left_as_it_is(options):
    assert untouched(changed_attention(**options))


def test_the_same_with_nothing_changed_is_rewritten():
    assert swaps(rewritten(changed_attention())) == ["x"]


def test_zeros_that_mean_nothing_are_no_copies():
    model = changed_attention(target=(2, 5, HEADS, HEAD), attributes={"allowzero": 1})
    assert untouched(model)


def test_heads_that_are_split_and_joined_in_another_order_are_no_merge():
    """[B, h, S, d] to [B, h, S * d] reads the Transpose of a split."""
    g = Layers()
    x = g.op("Tanh", g.tokens())
    model = g.model(y=g.op("Reshape", g.split(g.linear(x), 0, 2, 1, 3), g.ints(0, 0, -1)))
    assert swaps(rewritten(model)) == ["x"]


def test_a_transpose_that_others_read_in_front_of_a_merge_is_none_of_a_merge():
    g = Layers()
    x = g.op("Tanh", g.tokens())
    turned = g.op(
        "Transpose",
        g.heads(*(g.split(g.linear(x), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))),
        perm=[0, 2, 1, 3],
    )
    joined = g.op("Reshape", turned, g.ints(0, 0, WIDTH), name="joined")
    model = g.model(y=g.op("Add", x, joined), turned=turned)
    assert swaps(rewritten(model)) == ["x", "joined_out", "y_sequence_first"]


def test_sizes_of_another_stack_stay_measured():
    g = Layers()
    x, other = g.op("Tanh", g.tokens()), g.op("Tanh", g.tokens("o", "other", "sequence", WIDTH))
    target = g.op("Concat", g.size(other, 0), g.size(other, 1), g.ints(HEADS), g.ints(-1), axis=0)
    q = g.split(g.linear(x), 0, 2, 1, 3, target=target)
    model = g.model(y=q, z=g.split(g.linear(other), 0, 2, 1, 3))
    assert untouched(model)


def test_what_enters_without_a_shape_leaves_the_model_as_it_is():
    g = Layers()
    model = g.model(y=layer_of(g, g.tokens()))
    model.graph.inputs[0].shape = None
    assert untouched(model)
