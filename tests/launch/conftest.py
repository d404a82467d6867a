import pytest
from launchers import Programs


@pytest.fixture
def programs(tmp_path) -> Programs:
    (tmp_path / "programs").mkdir()
    return Programs(tmp_path / "programs")
