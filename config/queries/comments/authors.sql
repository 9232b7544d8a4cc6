-- title: Comments by author
-- description: How many comments each author has written, on how many pictures, and when the last one was written.
-- parameter: most integer = 100; how many authors
SELECT c.author, COUNT(*) AS comments, COUNT(DISTINCT c.picture) AS pictures, MAX(c.created_at) AS last_at
FROM comments.comment AS c
GROUP BY c.author
ORDER BY comments DESC, c.author
LIMIT :most
