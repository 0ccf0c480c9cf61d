-- The judge's ledger: rows are added, never changed. Money in nano-dollars.
CREATE TABLE IF NOT EXISTS attempt (
    attempt_id INTEGER PRIMARY KEY,
    request_sha TEXT NOT NULL,
    run_id TEXT NOT NULL,
    backend TEXT NOT NULL,
    model TEXT NOT NULL,
    base_url TEXT NOT NULL,
    stage TEXT NOT NULL,
    subject TEXT NOT NULL,
    prompt TEXT NOT NULL,
    prompt_sha TEXT NOT NULL,
    vote INTEGER NOT NULL,
    answer TEXT NOT NULL,               -- module:class that reads the reply
    reserved_nano INTEGER NOT NULL,
    n_bytes INTEGER NOT NULL,           -- of the request's body
    submission_id INTEGER,              -- set for batched attempts
    pid INTEGER NOT NULL,
    pid_started REAL NOT NULL,
    opened TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attempt_by_request ON attempt (request_sha);
CREATE INDEX IF NOT EXISTS attempt_by_submission ON attempt (submission_id);

CREATE TABLE IF NOT EXISTS outcome (
    attempt_id INTEGER PRIMARY KEY REFERENCES attempt,
    status TEXT NOT NULL,
    answers INTEGER NOT NULL,           -- 1: this is the request's answer, it is never asked again
    category TEXT,
    detail TEXT NOT NULL,
    http_status INTEGER,
    raw TEXT,
    parsed TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cache_write_tokens INTEGER,
    cache_read_tokens INTEGER,
    cost_nano INTEGER NOT NULL,
    seconds REAL,
    closed TEXT NOT NULL
);

-- Batches: the intent is on disk before anything is sent.
CREATE TABLE IF NOT EXISTS submission (
    submission_id INTEGER PRIMARY KEY,
    n_requests INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    pid_started REAL NOT NULL,
    opened TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS submission_event (
    submission_id INTEGER NOT NULL REFERENCES submission,
    event TEXT NOT NULL,                -- created | adopted | disowned | collected | never_created
    batch_id TEXT,
    at TEXT NOT NULL
);

-- Running totals by scope ('study' or a run), kept by the triggers below inside each transaction.
CREATE TABLE IF NOT EXISTS committed (scope TEXT PRIMARY KEY, nano INTEGER NOT NULL);

CREATE TRIGGER IF NOT EXISTS reserve AFTER INSERT ON attempt BEGIN
    INSERT INTO committed VALUES ('study', NEW.reserved_nano), (NEW.run_id, NEW.reserved_nano)
        ON CONFLICT (scope) DO UPDATE SET nano = nano + NEW.reserved_nano;
END;
CREATE TRIGGER IF NOT EXISTS settle AFTER INSERT ON outcome BEGIN
    UPDATE committed SET nano = nano + NEW.cost_nano - (SELECT reserved_nano FROM attempt WHERE attempt_id = NEW.attempt_id)
        WHERE scope IN ('study', (SELECT run_id FROM attempt WHERE attempt_id = NEW.attempt_id));
END;
CREATE TRIGGER IF NOT EXISTS attempt_stays BEFORE UPDATE ON attempt BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER IF NOT EXISTS attempt_kept BEFORE DELETE ON attempt BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER IF NOT EXISTS outcome_stays BEFORE UPDATE ON outcome BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
CREATE TRIGGER IF NOT EXISTS outcome_kept BEFORE DELETE ON outcome BEGIN SELECT RAISE(ABORT, 'the ledger only grows'); END;
