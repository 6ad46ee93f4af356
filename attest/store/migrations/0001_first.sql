-- The tables of the first version. Times are milliseconds since 1970, hashes lower-case hex.
CREATE TABLE devices (
  id TEXT PRIMARY KEY, label TEXT NOT NULL, state TEXT NOT NULL, tier TEXT NOT NULL,
  enrolled_at BIGINT NOT NULL, may_format BIGINT NOT NULL,
  ak_name TEXT NOT NULL, agent_name TEXT NOT NULL, repair_floor BIGINT NOT NULL, policy TEXT NOT NULL, confirmed TEXT NOT NULL, attempt TEXT NOT NULL);
CREATE TABLE endorsement_keys (
  hash TEXT PRIMARY KEY, device TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE);
CREATE INDEX endorsement_keys_device ON endorsement_keys(device);
CREATE TABLE versions (
  device TEXT NOT NULL REFERENCES devices(id) ON DELETE CASCADE, name TEXT NOT NULL, value BIGINT NOT NULL,
  PRIMARY KEY (device, name));
CREATE TABLE decisions (
  cookie TEXT PRIMARY KEY, id TEXT NOT NULL UNIQUE, device TEXT NOT NULL, expires BIGINT NOT NULL,
  ack TEXT NOT NULL, effects TEXT NOT NULL, acked BIGINT NOT NULL);
CREATE INDEX decisions_expires ON decisions(expires);
CREATE INDEX decisions_device ON decisions(device);
CREATE TABLE documents (
  kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, added BIGINT NOT NULL, retired BIGINT NOT NULL,
  PRIMARY KEY (kind, name));
CREATE TABLE tokens (
  name TEXT PRIMARY KEY, secret TEXT NOT NULL, expires BIGINT NOT NULL, uses BIGINT NOT NULL);
CREATE TABLE audit (
  replica TEXT NOT NULL, seq BIGINT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (replica, seq));
CREATE TABLE heads (
  replica TEXT PRIMARY KEY, seq BIGINT NOT NULL, hash TEXT NOT NULL, signature TEXT NOT NULL, time BIGINT NOT NULL);
INSERT INTO counters (name, value) VALUES ('documents', 0);
