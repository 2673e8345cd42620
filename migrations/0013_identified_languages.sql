-- Additive. Says of each post whether its language is the record's or was identified from the text.

ALTER TABLE post ADD COLUMN lang_identified boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN post.lang_identified IS 'Whether the language was identified from the text, as the record names none.';
