-- Orders have numbers, so that an acknowledgement ends those alone that its boot knew of. Orders in force now
-- are number 0, older than any boot. The last denial of a device has a row of its own.
ALTER TABLE devices ADD COLUMN orders BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN format_order BIGINT NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN repair_order BIGINT NOT NULL DEFAULT 0;
CREATE TABLE denials (
  device TEXT PRIMARY KEY REFERENCES devices(id) ON DELETE CASCADE, status TEXT NOT NULL);
