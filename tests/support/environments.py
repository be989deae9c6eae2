"""Environments that several tests begin with."""

RANK_1_OF_4 = {"RANK": "1", "WORLD_SIZE": "4"}
ENDPOINT = {"MASTER_ADDR": "h1", "MASTER_PORT": "29500"}
TORCHRUN = {
    **RANK_1_OF_4,
    **ENDPOINT,
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "0",
    "GROUP_WORLD_SIZE": "2",
    "TORCHELASTIC_RUN_ID": "j1",
    "TORCHELASTIC_RESTART_COUNT": "3",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
