"""First names that `transformations` exchanges: common, of one gender, and no words of everyday English.

A name is exchanged for one of the same gender, so that pronouns and kinship stay right. Names that are
borne by both (Alex, Taylor), that are also words (Mark, Grace, June), places (Charlotte) or brands are left
out: they stay in a text as they are.
"""

_FEMALE = """
Abigail Adriana Agnes Aisha Alexandra Alice Alicia Alison Allison Alyssa Amanda Amelia Amina Amy Ana
Anastasia Andrea Angela Anita Anna Anne Annie Antonia Ariana Ashley Astrid Audrey Ava Barbara Beatrice
Becky Belinda Bella Beth Bethany Betsy Betty Bianca Bonnie Brenda Brianna Bridget Brittany Camila Carla
Carly Carmen Caroline Carolyn Carrie Cassandra Catherine Cathy Cecilia Celia Celine Cheryl Chloe Christina
Christine Cindy Claire Clara Clarissa Claudia Connie Cynthia Daniela Danielle Daria Deborah Debra Denise
Diana Diane Dina Dolores Donna Dora Doris Dorothy Edith Eileen Elena Eleanor Elisa Eliza Elizabeth Ella
Ellen Ellie Eloise Elsa Elsie Emily Emma Erica Erin Esther Eva Evelyn Fatima Felicia Fiona Flora Frances
Francesca Gabriela Gabrielle Gail Genevieve Gina Giselle Gladys Glenda Gloria Greta Gretchen Gwen Haley
Hannah Heather Heidi Helen Helena Henrietta Imani Ingrid Irene Irma Isabel Isabella Isabelle Jacqueline
Jane Janet Janice Jenna Jennifer Jenny Jessica Jill Joan Joanna Joanne Josephine Joyce Juanita Judith Judy
Julia Juliana Julie Juliet Kaitlyn Karen Karina Kate Katherine Kathleen Kathryn Kathy Katie Katrina Kayla
Kaylee Kelsey Kendra Kimberly Kira Kristen Kristin Kristina Kristine Kylie Lana Lara Latisha Laura Lauren
Layla Leah Leila Lena Leticia Lilian Liliana Linda Lisa Liza Loretta Lori Louise Lucia Lucille Lucy Lydia
Mabel Madeline Maggie Malia Mandy Marcia Margaret Margarita Maria Mariana Marie Marilyn Marina Marissa
Marjorie Marla Marta Martha Martina Mary Matilda Maya Megan Meghan Melanie Melinda Melissa Mia Michaela
Michelle Mildred Miranda Miriam Molly Mona Monica Nadia Nadine Nancy Naomi Natalia Natalie Natasha Nicole
Nina Noemi Nora Norma Olga Olivia Pamela Patricia Paula Pauline Peggy Phoebe Phyllis Priscilla Priya
Rachel Ramona Raquel Rebecca Regina Renata Rhonda Rita Roberta Rosa Roxanne Ruth Sabrina Sally Samantha
Samira Sandra Sara Sarah Selena Sharon Sheila Shirley Silvia Simone Sonia Sophia Sophie Stacy Stella
Stephanie Susan Susanna Susie Suzanne Sylvia Tabitha Tamara Tammy Tanya Tara Tatiana Teresa Theresa
Tiffany Tina Tonya Tricia Ursula Valentina Valeria Valerie Vanessa Vera Veronica Vivian Wanda Wendy Wilma
Yasmin Yolanda Yvette Yvonne Zainab Zoe
"""

_MALE = """
Aaron Abraham Adam Adrian Ahmed Alan Albert Alberto Alejandro Alexander Alfred Alfredo Alvin Amir Anders
Andre Andrew Andy Anthony Antoine Anton Antonio Arnold Arthur Arturo Barry Bartholomew Ben Benjamin Benny
Bernard Bert Bilal Billy Bob Bobby Boris Brad Bradley Brandon Brendan Brian Bruce Bruno Bryan Caleb Calvin
Carl Carlo Carlos Cedric Cesar Charles Chester Christopher Clarence Claude Clifford Clyde Cody Colin
Conrad Curtis Cyril Damian Dan Daniel Danny Darius Darnell Darren Darryl Dave David Dennis Derek Derrick
Desmond Diego Dmitri Dominic Donald Doug Douglas Dustin Dwayne Dylan Eddie Edgar Eduardo Edward Edwin
Elias Elijah Elliot Emilio Emmanuel Enrique Eric Ernest Ernesto Ethan Eugene Evan Fabian Farid Federico
Felipe Felix Ferdinand Fernando Francisco Franklin Fred Freddy Frederick Gabriel Garrett Gary Geoffrey
George Gerald Gerard Gilbert Giovanni Greg Gregory Gustavo Hamza Hank Harold Harry Harvey Hassan Hector
Henry Herbert Herman Horace Howard Hugo Ian Ibrahim Igor Isaac Ismael Ivan Jacob Jacques Jake Jamal James
Jared Jason Javier Jayden Jeff Jeffrey Jeremiah Jeremy Jerome Jerry Jim Jimmy Joe Joel Joey Johann John
Johnny Jonah Jonathan Jorge Jose Joseph Josh Joshua Josiah Juan Julian Julio Justin Karl Keith Ken Kenneth
Kenny Kevin Khalid Kofi Kurt Kyle Kwame Lamar Larry Lars Laurence Leo Leon Leonard Leonardo Leroy Liam
Lloyd Lorenzo Louis Lucas Luigi Luis Luke Malcolm Manuel Marcel Marco Marcus Mario Martin Marvin Mateo
Matt Matteo Matthew Maurice Maximilian Maxwell Melvin Michael Miguel Mike Mikhail Milton Mitchell Mohammed
Nathan Nathaniel Neil Nelson Nicholas Nikolai Noah Norman Olaf Oliver Omar Osman Otto Owen Pablo Patrick
Paul Pedro Percy Peter Phil Philip Phillip Pierre Rafael Raj Ralph Ramon Randall Raphael Raul Ravi Raymond
Reginald Ricardo Richard Rick Roberto Robert Rodney Rodrigo Roger Roland Ronald Ruben Rudolph Rupert
Russell Ryan Samir Samson Samuel Scott Sean Sebastian Sergei Sergio Seth Shawn Sheldon Simon Solomon
Stanley Stefan Stephen Steve Steven Stuart Sven Tariq Ted Terrence Theo Theodore Thomas Tim Timmy Timothy
Tobias Toby Todd Tom Tomas Tommy Tony Travis Trevor Tyler Tyrone Victor Vincent Vladimir Walter Warren
Wayne Wilbur Wilfred William Winston Xavier Yusuf Zachary
"""

FEMALE = tuple(_FEMALE.split())
MALE = tuple(_MALE.split())
