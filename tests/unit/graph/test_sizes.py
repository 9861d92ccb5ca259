import pytest

from calib8.errors import ModelError
from calib8.graph.sizes import SIZES, record_sizes, recorded_sizes
from calib8.testing import tiny_mlp


def test_sizes_come_back() -> None:
    model = tiny_mlp()
    assert recorded_sizes(model) == {}
    record_sizes(model, {"height": (32, 480, 960)})
    assert recorded_sizes(model) == {"height": (32, 480, 960)}


@pytest.mark.parametrize("damage", ["{", "[1]", '{"height": [0, 1, 2]}', '{"height": [1, 2]}'])
def test_what_somebody_made_of_them_is_refused(damage: str) -> None:
    model = tiny_mlp()
    model.metadata_props[SIZES] = damage
    with pytest.raises(ModelError, match="wrote into the model as 'calib8.sizes' is damaged"):
        recorded_sizes(model)
