BEGIN;
SELECT pg_catalog.pg_advisory_xact_lock(6146922345950824241);
CREATE SCHEMA IF NOT EXISTS unanimous;
CREATE TABLE IF NOT EXISTS unanimous.unanimous_log (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL,
    manager text COLLATE "C" NOT NULL,
    last_epoch bigint NOT NULL CHECK (last_epoch BETWEEN 0 AND 4294967295),
    moved text
);
INSERT INTO unanimous.unanimous_log (version, manager, last_epoch) VALUES (1, '0000000000000000', 0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS unanimous.unanimous_opening (
    epoch bigint PRIMARY KEY,
    nonce text COLLATE "C" NOT NULL,
    identity text COLLATE "C" NOT NULL,
    label text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at timestamptz,
    released_at timestamptz
);
CREATE INDEX IF NOT EXISTS unanimous_opening_unreleased
    ON unanimous.unanimous_opening (epoch) WHERE released_at IS NULL;
CREATE TABLE IF NOT EXISTS unanimous.unanimous_epoch (
    epoch bigint NOT NULL,
    slot smallint NOT NULL,
    closed boolean NOT NULL,
    PRIMARY KEY (epoch, slot)
);
CREATE TABLE IF NOT EXISTS unanimous.unanimous_decision (
    gtrid text COLLATE "C" PRIMARY KEY,
    epoch bigint NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('C', 'D', 'R')),
    branches text NOT NULL,
    decided_at timestamptz DEFAULT clock_timestamp()
);
CREATE INDEX IF NOT EXISTS unanimous_decision_pending
    ON unanimous.unanimous_decision (gtrid) WHERE state = 'C';
CREATE TABLE IF NOT EXISTS unanimous.unanimous_heuristic (
    gtrid text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    ended text COLLATE "C" NOT NULL,
    noted_at timestamptz DEFAULT clock_timestamp(),
    PRIMARY KEY (gtrid, resource)
);
CREATE TABLE IF NOT EXISTS unanimous.unanimous_by_hand (
    id text COLLATE "C" PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY,
    gtrid text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('I', 'U', 'D', 'V')),
    words text NOT NULL
);
CREATE TABLE IF NOT EXISTS unanimous.unanimous_member (
    epoch bigint PRIMARY KEY,
    beats bigint NOT NULL,
    beat_at timestamptz NOT NULL
);
COMMIT;
