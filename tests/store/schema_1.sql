CREATE TABLE artifact_links (
	artifact_id TEXT NOT NULL,
	run_id TEXT NOT NULL,
	node_id TEXT DEFAULT '' NOT NULL,
	PRIMARY KEY (run_id, node_id, artifact_id)
)
 WITHOUT ROWID;

CREATE TABLE artifacts (
	artifact_id TEXT NOT NULL,
	kind TEXT NOT NULL,
	size_bytes BIGINT NOT NULL,
	storage_location TEXT NOT NULL,
	inline_data BLOB,
	file_path TEXT,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	PRIMARY KEY (artifact_id),
	CONSTRAINT ck_storage_location CHECK (storage_location = 'inline' OR storage_location = 'file'),
	CONSTRAINT ck_inline_data CHECK ((storage_location = 'inline') = (inline_data IS NOT NULL)),
	CONSTRAINT ck_artifact_id CHECK (length(artifact_id) = 64)
);

CREATE TABLE cache_entries (
	run_id TEXT NOT NULL,
	namespace TEXT NOT NULL,
	entry_key TEXT NOT NULL,
	value TEXT,
	artifact_id TEXT,
	updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	PRIMARY KEY (run_id, namespace, entry_key)
)
 WITHOUT ROWID;

CREATE TABLE flow_runs (
	run_id TEXT NOT NULL,
	flow_name TEXT NOT NULL,
	status TEXT NOT NULL,
	epoch INTEGER DEFAULT '1' NOT NULL,
	beat BIGINT DEFAULT '0' NOT NULL,
	owner TEXT,
	lease_expires_at DATETIME,
	owned_seconds DOUBLE DEFAULT '0' NOT NULL,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	parent_run_id TEXT,
	idempotency_key TEXT,
	fingerprint TEXT DEFAULT '' NOT NULL,
	version TEXT DEFAULT '' NOT NULL,
	error TEXT,
	crashes TEXT,
	config TEXT,
	inputs TEXT,
	inputs_artifact_id TEXT,
	graph TEXT NOT NULL,
	PRIMARY KEY (run_id),
	CONSTRAINT ck_status CHECK (status = 'running' OR status = 'paused' OR status = 'completed' OR status = 'failed' OR status = 'cancelled' OR status = 'timed_out'),
	UNIQUE (idempotency_key)
);

CREATE INDEX ix_flow_runs_created_at ON flow_runs (created_at);

CREATE INDEX ix_flow_runs_flow_name_status ON flow_runs (flow_name, status);

CREATE TABLE memo (
	memo_key TEXT NOT NULL,
	action TEXT DEFAULT '' NOT NULL,
	value TEXT,
	artifact_id TEXT,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	expires_at DATETIME,
	PRIMARY KEY (memo_key)
);

CREATE TABLE messages (
	message_id INTEGER NOT NULL,
	channel TEXT NOT NULL,
	message_key TEXT DEFAULT '' NOT NULL,
	payload BLOB NOT NULL,
	publisher TEXT,
	run_id TEXT,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	PRIMARY KEY (message_id)
);

CREATE INDEX ix_messages_channel ON messages (channel, message_id);

CREATE TABLE meta (
	name TEXT NOT NULL,
	value TEXT NOT NULL,
	PRIMARY KEY (name)
);

CREATE TABLE node_runs (
	run_id TEXT NOT NULL,
	seq BIGINT DEFAULT '0' NOT NULL,
	node_id TEXT NOT NULL,
	invocation_key TEXT DEFAULT 'default' NOT NULL,
	attempt INTEGER DEFAULT '1' NOT NULL,
	state TEXT NOT NULL,
	output TEXT,
	output_artifact_id TEXT,
	input_hash TEXT,
	started_at DOUBLE,
	duration_ms DOUBLE,
	error TEXT,
	meta TEXT,
	released TEXT,
	PRIMARY KEY (run_id, node_id, invocation_key, attempt),
	CONSTRAINT ck_state CHECK (state = 'completed' OR state = 'skipped' OR state = 'failed' OR state = 'cancelled' OR state = 'pending' OR state = 'running' OR state = 'waiting'),
	CONSTRAINT ck_attempt CHECK (attempt >= 0)
)
 WITHOUT ROWID;

CREATE INDEX ix_node_runs_output_artifact_id ON node_runs (output_artifact_id) WHERE output_artifact_id IS NOT NULL;

CREATE INDEX ix_node_runs_run_id_state ON node_runs (run_id, state) WHERE state = 'skipped' OR state = 'failed' OR state = 'cancelled' OR state = 'pending' OR state = 'running' OR state = 'waiting';

CREATE TABLE run_log (
	run_id TEXT NOT NULL,
	seq BIGINT NOT NULL,
	kind TEXT NOT NULL,
	entry_key TEXT,
	body TEXT NOT NULL,
	PRIMARY KEY (run_id, seq),
	CONSTRAINT uq_run_log_entry_key UNIQUE (run_id, entry_key),
	CONSTRAINT ck_kind CHECK (kind = 'released' OR kind = 'command')
)
 WITHOUT ROWID;

CREATE TABLE snapshots (
	snapshot_id TEXT NOT NULL,
	flow_name TEXT NOT NULL,
	run_id TEXT,
	value TEXT,
	artifact_id TEXT,
	size_bytes BIGINT NOT NULL,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	PRIMARY KEY (snapshot_id)
);

CREATE INDEX ix_snapshots_flow_name ON snapshots (flow_name, created_at);

CREATE TABLE tasks (
	task_id INTEGER NOT NULL,
	public_id TEXT,
	job_id TEXT,
	parent_id TEXT,
	run_id TEXT,
	status TEXT NOT NULL,
	agent_type TEXT NOT NULL,
	priority INTEGER DEFAULT '0' NOT NULL,
	payload BLOB,
	result BLOB,
	error TEXT,
	attempt INTEGER DEFAULT '0' NOT NULL,
	owner TEXT,
	beat BIGINT DEFAULT '0' NOT NULL,
	lease_expires_at DATETIME,
	version INTEGER DEFAULT '0' NOT NULL,
	created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
	PRIMARY KEY (task_id),
	UNIQUE (public_id)
);

CREATE INDEX ix_tasks_status_priority ON tasks (status, priority);

CREATE INDEX ix_tasks_job_id ON tasks (job_id);

CREATE VIEW execution_trees AS SELECT f.flow_name, n.run_id, n.seq, n.node_id, n.invocation_key, n.attempt, n.state, n.started_at, n.duration_ms, n.error FROM node_runs AS n JOIN flow_runs AS f ON f.run_id = n.run_id WHERE n.attempt > 0 AND NOT EXISTS ( SELECT 1 FROM node_runs AS later WHERE later.run_id = n.run_id AND later.node_id = n.node_id AND later.invocation_key = n.invocation_key AND later.attempt > n.attempt);

CREATE VIEW execution_state AS SELECT flow_name, run_id, CASE WHEN owner IS NULL THEN 'pending' ELSE 'active' END AS state, status, epoch, owner, created_at, updated_at FROM flow_runs WHERE NOT (status = 'completed' OR status = 'failed' OR status = 'cancelled' OR status = 'timed_out');

