CREATE DATABASE IF NOT EXISTS bookstore;
CREATE TABLE IF NOT EXISTS bookstore.books (id INT PRIMARY KEY, title VARCHAR(80) NOT NULL, author VARCHAR(80) NOT NULL, cents INT NOT NULL);
REPLACE INTO bookstore.books VALUES (1, 'TCP/IP Illustrated', 'W. Richard Stevens', 6999), (2, 'The Practice of Programming', 'Kernighan and Pike', 3999), (3, 'BPF Performance Tools', 'Brendan Gregg', 5499);
